//! The tool: architectures, methods, recipes, the engine, evaluation, reports and commands.
//!
//! Everything that can be listed is a list: [`arch::ALL`], [`method::ALL`], [`qconv_formats::block::ALL`]. Command-line
//! choices, help, reports and tests iterate those lists.

// `eprintln!` panics where nobody reads any more; `ui::tell` and the reports do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod algebra;
pub mod allocate;
pub mod arch;
pub mod backend;
pub mod calibrate;
pub mod card;
pub mod cli;
pub mod command;
pub mod compare;
pub mod convert;
pub mod engine;
pub mod error;
pub mod eval;
pub mod general;
pub mod hub;
pub mod inspect;
pub mod method;
pub mod model;
pub mod naming;
pub mod output;
pub mod provenance;
pub mod recipe;
pub mod report;
pub mod tokenizer;
pub mod ui;
pub mod verify;
