//! `config.json`, in the old style and the new.
