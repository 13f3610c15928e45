//! The operations that a model's forward pass is made of.
//!
//! Activations are f32, row-major, one row per token: `(n, width)`. Buffers may be longer than what an operation needs.
//! Shapes were checked by the engine when it built the model; a backend may panic where they do not fit.

use qconv_formats::QTensor;

/// Errors of a backend: no device, no memory, a format that it cannot compute with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend cannot be used here; a full sentence with the reason.
    #[error("{0}")]
    Unavailable(String),
    /// Not enough memory for a weight, buffer or cache.
    #[error("{what} needs {bytes} bytes of {backend} memory, which are not to be had")]
    OutOfMemory {
        /// What was to be allocated.
        what: String,
        /// Bytes asked for.
        bytes: u64,
        /// The backend's name.
        backend: String,
    },
    /// The device failed while computing.
    #[error("{0}")]
    Device(String),
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How a row is normalized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// `x / sqrt(mean(x^2) + eps)` (Zhang & Sennrich 2019).
    Rms,
    /// `(x - mean) / sqrt(var + eps)` (Ba et al. 2016).
    Layer,
}

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// The tanh approximation of GELU (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// GELU by the error function.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
}

/// Which dimensions of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// `(0,1), (2,3), ...`: GGUF's llama family.
    Interleaved,
    /// `(0, d/2), (1, d/2+1), ...`: GPT-NeoX and most others.
    Neox,
}

/// A rotary position embedding (Su et al. 2021), scaling already folded into the frequencies.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Pairing of dimensions.
    pub style: RopeStyle,
    /// Angle per position for each pair; `2 * frequencies.len()` dimensions of each head are rotated, the rest is kept.
    pub frequencies: Vec<f32>,
    /// Multiplied onto sine and cosine (YaRN's and LongRoPE's attention factor; 1 otherwise).
    pub magnitude: f32,
}

/// Attention of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a query and key head.
    pub key_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Multiplied onto scores, usually `1 / sqrt(key_dim)`.
    pub scale: f32,
    /// Positions seen, the own one included; `None` for all.
    pub window: Option<usize>,
    /// `cap * tanh(score / cap)`, Gemma 2.
    pub soft_cap: Option<f32>,
}

/// What a key-value cache has to hold.
#[derive(Debug, Clone, Copy)]
pub struct CacheShape {
    /// Layers.
    pub layers: usize,
    /// Positions.
    pub positions: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Key floats per position and layer (`kv_heads * key_dim`).
    pub key_width: usize,
    /// Value floats per position and layer.
    pub value_width: usize,
}

/// The time that one kernel took, all its launches together.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelTime {
    /// Its name.
    pub kernel: String,
    /// How often it ran.
    pub launches: usize,
    /// Seconds.
    pub seconds: f64,
}

/// Tells the seconds since it was started, once all that was asked for until then is done.
pub type Stopwatch<'a> = Box<dyn FnOnce() -> Result<f64> + 'a>;

/// What a device did while it was watched.
#[derive(Debug, Clone, PartialEq)]
pub enum DeviceUse {
    /// As the device's management library tells it: of the whole device, other programs on it included.
    Seen {
        /// Most bytes of memory that were in use.
        peak_memory: u64,
        /// Mean and highest power in watts.
        watts: Option<(f64, f64)>,
        /// Mean share of the time in which a kernel ran, 0 to 1.
        busy: Option<f64>,
    },
    /// Nothing is known; why.
    Unknown(String),
}

/// How tokens go through a mixture of experts.
#[derive(Debug, Clone, Copy)]
pub struct Mixing {
    /// ExpertWeights that compute each token: those of the largest scores, of equals the lower numbers.
    pub used: usize,
    /// Their probabilities (softmax over the scores of all) are divided by their sum.
    pub normalize: bool,
    /// What is applied to the gate's product, or to `up`'s where there is no gate.
    pub activation: Activation,
}

/// The matrices of all experts of a layer, in their order.
pub struct ExpertWeights<'a, B: Backend + ?Sized> {
    /// `(hidden, width)` each, if the model has them.
    pub gate: Option<Vec<&'a B::Weight>>,
    /// `(hidden, width)` each.
    pub up: Vec<&'a B::Weight>,
    /// `(width, hidden)` each.
    pub down: Vec<&'a B::Weight>,
}

/// Floats that [`Backend::mix`] needs beside its input and output.
pub struct MixBuffers<'a, B: Backend + ?Sized> {
    /// `(2, n, used)`: who computes, and by what factor.
    pub picks: &'a mut B::Buffer,
    /// `(n, used, hidden)`, in whatever order of pairs of a token and an expert.
    pub gate: &'a mut B::Buffer,
    /// The same.
    pub up: &'a mut B::Buffer,
    /// `(n, used, width)`, likewise: what each expert gives.
    pub each: &'a mut B::Buffer,
}

/// Floats among which [`Backend::argmax`] finds the largest: fewer than this, since places are given as floats.
pub const ARGMAX_LIMIT: usize = 1 << 24;

/// A place to compute.
pub trait Backend {
    /// A weight matrix or vector in the backend's memory.
    type Weight;
    /// f32 activations.
    type Buffer;
    /// Keys and values of one sequence, all layers.
    type Cache;
    /// What is kept of a step that [`Backend::repeat`] repeats.
    type Recording: Default;
    /// A layer's experts, as [`Backend::mix`] wants them.
    type Mixture;

    /// For reports: `cpu (avx2, 2 threads)`.
    fn name(&self) -> String;

    /// Bytes per second, in GB/s, at which weights can be read at most: the device's memory, measured now (about half a
    /// second). `None` where the backend cannot tell.
    fn read_bandwidth(&self) -> Option<f64> {
        None
    }

    /// Runs `step`, which is the same sequence of operations on the same buffers whenever it comes with the same `recording`. A
    /// backend may record what it does and replay that instead of running it; a step that copies to or from the host is never
    /// recorded. `at`: the step computes these tokens, always as many, each of a sequence of its own and at this position; `None`:
    /// it knows of neither. Its embeddings ([`Backend::embed`]) are those of these tokens only.
    fn repeat(
        &self,
        recording: &mut Self::Recording,
        at: Option<(&[u32], usize)>,
        step: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if self.begin_step(recording, at)? {
            return Ok(());
        }
        let outcome = step();
        if self.end_step(recording, outcome)? { Ok(()) } else { step() }
    }

    /// The operations that follow are those of a step (see [`Backend::repeat`]). True: they were replayed, and are not to be called;
    /// false: they are to be called, and then [`Backend::end_step`].
    fn begin_step(&self, recording: &mut Self::Recording, at: Option<(&[u32], usize)>) -> Result<bool> {
        let _ = (recording, at);
        Ok(false)
    }

    /// All operations of the step were called, with this outcome. False: they could not be recorded and have not run; they are to
    /// be called again.
    fn end_step(&self, recording: &mut Self::Recording, outcome: Result<()>) -> Result<bool> {
        let _ = recording;
        outcome.map(|()| true)
    }

    /// Begins to take the time of everything that runs, which slows it down.
    fn start_profile(&self) {}

    /// Times since [`Backend::start_profile`], longest first, and ends taking them. Empty where the backend takes none.
    fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        Ok(Vec::new())
    }

    /// Starts a stopwatch behind what was asked for so far: the device's own clock, where it has one.
    fn stopwatch(&self) -> Result<Stopwatch<'_>> {
        let start = std::time::Instant::now();
        Ok(Box::new(move || Ok(start.elapsed().as_secs_f64())))
    }

    /// Begins to watch the device's memory, power and utilization; see [`Backend::device_use`].
    fn watch_device(&self) {}

    /// What was seen since [`Backend::watch_device`], which goes on. `None` where there is no device but the processor, or nobody
    /// watches.
    fn device_use(&self) -> Option<DeviceUse> {
        None
    }

    /// Billions of multiply-adds per second that the instruction which multiplies block-quantized weights with many tokens can do at most, measured
    /// now. `None` where the backend cannot tell.
    fn product_peak(&self) -> Option<f64> {
        None
    }

    /// Takes a weight over: by reference into the mapped file, or re-laid out, as the backend sees fit.
    fn weight(&self, tensor: QTensor) -> Result<Self::Weight>;

    /// [`Backend::weight`] of a tensor that belongs to this layer of the model, or to none (embeddings, the output). A backend
    /// may keep layers in different places.
    fn weight_of(&self, layer: Option<usize>, tensor: QTensor) -> Result<Self::Weight> {
        let _ = layer;
        self.weight(tensor)
    }

    /// Rows that an operation takes at most, where none is wider than `width` floats: larger batches are computed in parts.
    fn most_rows(&self, width: usize) -> usize {
        let _ = width;
        usize::MAX
    }

    /// A zeroed buffer of `len` floats.
    fn buffer(&self, len: usize) -> Result<Self::Buffer>;

    /// Bytes of one key or value number in this backend's caches, where all take the same.
    fn cache_float_bytes(&self) -> usize {
        4
    }

    /// Bytes that this backend's caches take for one head's key or value of `dim` numbers.
    fn cache_head_bytes(&self, dim: usize) -> usize {
        dim * self.cache_float_bytes()
    }

    /// Positions that this backend's caches keep together: memory is taken for whole multiples.
    fn cache_block(&self) -> usize {
        1
    }

    /// An empty cache.
    fn cache(&self, shape: CacheShape) -> Result<Self::Cache>;

    /// Copies the first `out.len()` floats of a buffer to the host.
    fn read(&self, from: &Self::Buffer, out: &mut [f32]) -> Result<()>;

    /// Copies floats from the host to the front of a buffer.
    fn write(&self, from: &[f32], to: &mut Self::Buffer) -> Result<()>;

    /// `out[i] = table[rows[i]]`: token or position embeddings, dequantized. `out`: `(rows.len(), cols)`.
    fn embed(&self, table: &Self::Weight, rows: &[u32], out: &mut Self::Buffer) -> Result<()>;

    /// `out = table[position]`: the learned position of a single token, looked up such that [`Backend::repeat`] can replay it.
    /// `out`: `(cols)`.
    fn embed_position(&self, table: &Self::Weight, position: usize, out: &mut Self::Buffer) -> Result<()> {
        self.embed(table, &[position as u32], out)
    }

    /// Normalizes `rows` rows of `cols` floats: `out = norm(x) * weight + bias`. `x`, `out`: `(rows, cols)`.
    #[allow(clippy::too_many_arguments)] // a kernel's parameters; a struct would only rename them
    fn norm(
        &self,
        norm: Norm,
        eps: f32,
        weight: &Self::Weight,
        bias: Option<&Self::Weight>,
        x: &Self::Buffer,
        out: &mut Self::Buffer,
        rows: usize,
        cols: usize,
    ) -> Result<()>;

    /// `x += y`, then `out = norm(x) * weight + bias`: a branch returns and the next begins. All `(rows, cols)`.
    #[allow(clippy::too_many_arguments)] // as above
    fn add_norm(
        &self,
        x: &mut Self::Buffer,
        y: &Self::Buffer,
        norm: Norm,
        eps: f32,
        weight: &Self::Weight,
        bias: Option<&Self::Weight>,
        out: &mut Self::Buffer,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        self.add(x, y, rows * cols)?;
        self.norm(norm, eps, weight, bias, x, out, rows, cols)
    }

    /// `out = x * w^T + bias` for several weights that share `x` (query-key-value, gate-up): `x`: `(n, cols)`,
    /// each `out`: `(n, w.rows)`.
    fn matmul(&self, x: &Self::Buffer, n: usize, outs: &mut [Product<'_, Self>]) -> Result<()>;

    /// Rotates `heads` heads of `head_dim` floats in each of `n` rows; row `i` is at position `start + i`.
    fn rope(
        &self,
        rope: &Rope,
        x: &mut Self::Buffer,
        n: usize,
        heads: usize,
        head_dim: usize,
        start: usize,
    ) -> Result<()>;

    /// Appends keys and values of positions `start .. start + n` to a layer of the cache.
    #[allow(clippy::too_many_arguments)] // as above
    fn store(
        &self,
        cache: &mut Self::Cache,
        layer: usize,
        k: &Self::Buffer,
        v: &Self::Buffer,
        start: usize,
        n: usize,
    ) -> Result<()>;

    /// Rotates queries and keys, then appends keys and values to the cache: [`Backend::rope`] twice, and [`Backend::store`].
    /// What `k` holds afterwards is left to the backend.
    #[allow(clippy::too_many_arguments)] // as above
    fn rope_store(
        &self,
        rope: &Rope,
        heads: usize,
        kv_heads: usize,
        key_dim: usize,
        q: &mut Self::Buffer,
        k: &mut Self::Buffer,
        v: &Self::Buffer,
        cache: &mut Self::Cache,
        layer: usize,
        start: usize,
        n: usize,
    ) -> Result<()> {
        self.rope(rope, q, n, heads, key_dim, start)?;
        self.rope(rope, k, n, kv_heads, key_dim, start)?;
        self.store(cache, layer, k, v, start, n)
    }

    /// Causal attention of the queries at `start .. start + n` over the cache. `q`: `(n, heads * key_dim)`,
    /// `out`: `(n, heads * value_dim)`.
    #[allow(clippy::too_many_arguments)] // as above
    fn attention(
        &self,
        shape: &Attention,
        q: &Self::Buffer,
        cache: &Self::Cache,
        layer: usize,
        start: usize,
        n: usize,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// Whether [`Backend::attend_each`] takes more than one sequence. Elsewhere one after the other is computed.
    fn takes_several(&self) -> bool {
        false
    }

    /// What a batch of several sequences needs, each with a cache of its own and `n` neighbouring rows of `q`, `k`, `v` and
    /// `out`, all at positions `start .. start + n`: for each of them [`Backend::rope`] of queries and keys (if there is a
    /// rope), [`Backend::store`] and [`Backend::attention`]. Only called where [`Backend::takes_several`].
    #[allow(clippy::too_many_arguments)] // as above
    fn attend_each(
        &self,
        rope: Option<&Rope>,
        shape: &Attention,
        q: &mut Self::Buffer,
        k: &mut Self::Buffer,
        v: &Self::Buffer,
        caches: &mut [&mut Self::Cache],
        layer: usize,
        start: usize,
        n: usize,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        let _ = (rope, shape, q, k, v, caches, layer, start, n, out);
        Err(Error::Unavailable(format!("{} computes one sequence at a time", self.name())))
    }

    /// Prepares a layer's experts for [`Backend::mix`]. `None` where the host has to pick them.
    fn mixture(&self, mixing: Mixing, experts: &ExpertWeights<'_, Self>) -> Result<Option<Self::Mixture>> {
        let _ = (mixing, experts);
        Ok(None)
    }

    /// Whether [`Backend::mix`] is the way for so many tokens. Where it is not, the host picks their experts.
    fn mixes(&self, mixture: &Self::Mixture, n: usize) -> bool {
        let _ = (mixture, n);
        true
    }

    /// `n` tokens through their experts, without the host: `out = sum of factor * down(activation(gate(x)) * up(x))` over those that the
    /// router's products `scores` say. `scores`: `(n, experts)`, `x`, `out`: `(n, width)`. Only called with what [`Backend::mixture`]
    /// gave.
    fn mix(
        &self,
        mixture: &Self::Mixture,
        scores: &Self::Buffer,
        x: &Self::Buffer,
        n: usize,
        work: MixBuffers<'_, Self>,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        let _ = (mixture, scores, x, n, work, out);
        Err(Error::Unavailable(format!("{} does not pick experts by itself", self.name())))
    }

    /// `gate = activation(gate) * up` over `len` floats.
    fn gate(&self, activation: Activation, gate: &mut Self::Buffer, up: &Self::Buffer, len: usize) -> Result<()>;

    /// `x = activation(x)` over `len` floats.
    fn activate(&self, activation: Activation, x: &mut Self::Buffer, len: usize) -> Result<()>;

    /// `x += y` over `len` floats.
    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, len: usize) -> Result<()>;

    /// `x *= factor` over `len` floats.
    fn scale(&self, x: &mut Self::Buffer, factor: f32, len: usize) -> Result<()>;

    /// `x = cap * tanh(x / cap)` over `len` floats.
    fn soft_cap(&self, x: &mut Self::Buffer, cap: f32, len: usize) -> Result<()>;

    /// `out[0]` = where the largest of `len` floats stands, the first of equals, as a float ([`ARGMAX_LIMIT`]). NaN if one of
    /// them is NaN or positive infinity, or none is above negative infinity.
    fn argmax(&self, x: &Self::Buffer, len: usize, out: &mut Self::Buffer) -> Result<()>;

    /// `out[i] = x[rows[i]]`: picks rows of activations. `x`: `(any, cols)`, `out`: `(rows.len(), cols)`.
    fn gather(&self, x: &Self::Buffer, rows: &[u32], cols: usize, out: &mut Self::Buffer) -> Result<()>;

    /// `out[rows[i]] += factors[i] * x[i]`: returns an expert's rows. `x`: `(rows.len(), cols)`.
    fn scatter_add(
        &self,
        x: &Self::Buffer,
        rows: &[u32],
        factors: &[f32],
        cols: usize,
        out: &mut Self::Buffer,
    ) -> Result<()>;
}

/// One product of [`Backend::matmul`].
pub struct Product<'a, B: Backend + ?Sized> {
    /// `(rows, cols)`.
    pub weight: &'a B::Weight,
    /// `rows` floats added to every row of the result.
    pub bias: Option<&'a B::Weight>,
    /// `(n, rows)`.
    pub out: &'a mut B::Buffer,
}
