/* qbound: quantize a trained network and prove how far the result can be from the original.
 *
 * This is the only header that users and bindings include. It goes from the simple to the expert:
 *   status and error   every fallible call returns a qb_status and fills a qb_error
 *   models             load a network, save it
 *   inspecting         what is in a file and what qbound can do with it
 *   quantizing         weights become integers of 2 to 16 bits
 *   bounding           proofs: how far the quantized output can be from the original, whatever the input
 *   measuring          both networks on real data: accuracy, flips, errors
 *   choosing the bits  a width for every layer, so that a promise is kept (qbound/promise.h, included here)
 *   certifying         a statement about two files, with what is needed to prove it again
 *   reporting          all of it as one page for people
 *   reproducing        the figures of the paper (qbound/reproduce.h, included here)
 *   JSON               every report as the text that `qbound --json` prints
 *
 * The shortest useful program:
 *
 *   qb_model *model = NULL, *quantized = NULL;
 *   qb_quantize_settings settings;
 *   qb_error error;
 *   qb_quantize_settings_default(&settings);
 *   settings.bits = 4;
 *   if (qb_model_load("model.onnx", &model, &error) != QB_OK ||
 *       qb_quantize(model, &settings, NULL, &quantized, NULL, &error) != QB_OK ||
 *       qb_model_save(quantized, "model4.onnx", NULL, NULL, &error) != QB_OK)
 *     fprintf(stderr, "%s\n", error.message);
 *   qb_model_free(quantized);
 *   qb_model_free(model);
 *
 * Ownership: an object from a qb_*_load or qb_*_create call belongs to the caller and is released with the
 * qb_*_free of the same noun; free accepts NULL. Strings inside settings are borrowed for the call.
 * Threads: distinct objects may be used from distinct threads; one object from one thread at a time.
 * The library never prints and never exits.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QBOUND_QBOUND_H
#define QBOUND_QBOUND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define QB_MUST_CHECK __attribute__((warn_unused_result))
#define QB_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#define QB_API __attribute__((visibility("default")))
#else
#define QB_MUST_CHECK
#define QB_PRINTF(format_index, first_argument)
#define QB_API
#endif

/* ------------------------------------------------------------------------------------------- status and error */

typedef enum qb_status {
  QB_OK = 0,
  QB_ERROR_ARGUMENT,    /* a setting or argument is out of its documented range */
  QB_ERROR_IO,          /* a file could not be opened, read, written or renamed */
  QB_ERROR_FORMAT,      /* a file is truncated, malformed or inconsistent */
  QB_ERROR_UNSUPPORTED, /* valid, but qbound has no rule for it (operator, type, opset, rank) */
  QB_ERROR_SHAPE,       /* shapes do not fit each other */
  QB_ERROR_NUMERIC,     /* NaN or Inf in weights or data, or an unsafe floating-point environment */
  QB_ERROR_MEMORY,      /* an allocation failed or a size overflows */
  QB_ERROR_INTERRUPTED, /* the caller's progress callback asked to stop */
  QB_ERROR_ENGINE       /* the execution engine (oneDNN) reported a failure */
} qb_status;

/* A caller-owned error. `message` is complete enough to print alone: it names the file, the node or tensor, and what
 * to do. Every function that takes a qb_error accepts NULL. */
typedef struct qb_error {
  qb_status status;
  char message[1024];
} qb_error;

/* The name of a status in lower case ("unsupported"); never NULL. */
QB_API const char *qb_status_name(qb_status status);

/* "0.1.0" */
QB_API const char *qb_version(void);

/* ------------------------------------------------------------------------------------------------- limits */

#define QB_MIN_BITS 2
#define QB_MAX_BITS 16
#define QB_SHAPE_RANK 8   /* most axes of a tensor */
#define QB_SHA256_TEXT 65 /* 64 hexadecimal digits and the terminator */

/* ----------------------------------------------------------------------------------------------- progress */

/* Called with `done` out of `total` units of the stage `what` ("measuring"); returns false to ask the library to stop
 * at the next safe point: the call then ends with QB_ERROR_INTERRUPTED. Called from the thread of the call. Where
 * `total` is QB_PROGRESS_SHARES, the units are shares of the estimated work and nothing that could be counted. */
#define QB_PROGRESS_SHARES 1000000
typedef bool (*qb_progress_function)(void *context, const char *what, int64_t done, int64_t total);

/* Long calls take a pointer to one of these; NULL is silent. */
typedef struct qb_progress {
  qb_progress_function function;
  void *context;
} qb_progress;

/* ------------------------------------------------------------------------------------------- many processes */

/* A job may be shared by processes that mpirun starts (a build with QBOUND_MPI). Call qb_ranks_begin first thing in
 * main and qb_ranks_end last, on every rank; a program that runs MPI itself may have started it before. Between them
 * qb_measure, qb_certify and qb_quantize are collective: every rank makes the same calls with the same arguments, does
 * its share and ends with the same result, bit for bit that of one process. Let rank 0 alone print. Without
 * qb_ranks_begin, or without MPI, there is one rank.
 * QB_ERROR_UNSUPPORTED: several processes, but a build without MPI. QB_ERROR_ENGINE: MPI does not start. */
QB_API QB_MUST_CHECK qb_status qb_ranks_begin(int *argc, char ***argv, qb_error *error);
QB_API void qb_ranks_end(void);
QB_API int qb_rank(void);       /* of this process, from 0 */
QB_API int qb_rank_count(void); /* at least 1 */

/* ------------------------------------------------------------------------------------------------- models */

/* A network ready for work: the document as it was read and the graph made from it, BatchNorm folded into the layers
 * where that is exact. */
typedef struct qb_model qb_model;

/* Reads an ONNX file (.onnx or .onnx.gz). QB_ERROR_IO, QB_ERROR_FORMAT, QB_ERROR_UNSUPPORTED (the message names the
 * node, operator and opset; qb_inspect lists all such nodes), QB_ERROR_NUMERIC for NaN or Inf weights. */
QB_API QB_MUST_CHECK qb_status qb_model_load(const char *path, qb_model **model, qb_error *error);
QB_API void qb_model_free(qb_model *model);

/* The path it was loaded from, or that of the model it was quantized from. Lives as long as the model. */
QB_API const char *qb_model_path(const qb_model *model);

/* Layers with weights, in topological order: their number and the node name of the i-th, which lives as long as the
 * model. */
QB_API int qb_model_layer_count(const qb_model *model);
QB_API const char *qb_model_layer_name(const qb_model *model, int layer);

/* How qb_model_save writes. */
typedef struct qb_save_settings {
  bool compat; /* opset 13 operators and int8 carriers only, for old runtimes: 2 to 8 bits. Default false */
  int threads; /* of the check after writing; 0 (default): all cores */
} qb_save_settings;

/* What was written and what the check after writing found. */
typedef struct qb_save_info {
  int64_t opset;            /* of the written file */
  int64_t size_bytes;       /* of the written file */
  double output_difference; /* largest |output of the file read back - output of the model in memory|: 0 */
  double float_difference;  /* the same with the original weights put back, against the original network, divided by the
                             * largest output: rounding of BatchNorm folding only, below 1e-3 or the call fails */
} qb_save_info;

QB_API void qb_save_settings_default(qb_save_settings *settings);

/* Writes a quantized model as ONNX with QuantizeLinear/DequantizeLinear and packed integer weights, under a temporary
 * name beside `path`; reads it back, checks that it computes what the model in memory computes and that its float path
 * is the original network, and only then renames. Tool version, settings, seed and the SHA-256 of the source go into
 * its metadata. Rank 0 alone writes. `settings` may be NULL (defaults), `info` may be NULL. QB_ERROR_ARGUMENT for a
 * model that was not quantized, QB_ERROR_IO, QB_ERROR_UNSUPPORTED (an operator cannot be converted to the opset that
 * the integers need), QB_ERROR_NUMERIC when a check fails; then nothing is left at `path`. */
QB_API QB_MUST_CHECK qb_status qb_model_save(const qb_model *model, const char *path, const qb_save_settings *settings,
                                             qb_save_info *info, qb_error *error);

/* --------------------------------------------------------------------------------------------- inspecting */

/* A layer with weights, of the network with BatchNorm folded. Of a layer behind an unsupported node only the names, the
 * shape of the weights and their number are known: `known` is false, numbers are 0 and output_rank is 0. */
typedef struct qb_inspect_layer {
  bool known;
  const char *node, *op;
  int weight_rank, output_rank;
  int64_t weight_shape[QB_SHAPE_RANK]; /* Conv (OC, IC/G, KH, KW), Gemm and MatMul (OUT, IN) */
  int64_t output_shape[QB_SHAPE_RANK]; /* at batch one */
  int64_t parameters;                  /* weights and biases */
  int64_t macs;                        /* multiply-accumulates of one inference */
  int64_t row_length;                  /* n_l: entries that meet one output unit at most */
  double radius;                       /* r_l: largest l1 norm of a row (a filter), an upper bound */
  double sigma;                        /* spectral norm, an upper bound; NAN when not asked for */
  double largest;                      /* max |w| */
  double range_ratio;    /* largest over smallest non-zero max |w| of an output channel; 1 when all are alike */
  int64_t zero_channels; /* output channels whose weights are all zero */
  int bits;              /* of integer weights already in the file; 0: float */
} qb_inspect_layer;

typedef struct qb_inspect_operator {
  const char *op;
  int64_t count;
} qb_inspect_operator;

/* A node for which qbound has no rule. */
typedef struct qb_inspect_unsupported {
  const char *node, *op;
  int64_t opset;
  const char *why; /* what is missing and what to do */
} qb_inspect_unsupported;

typedef struct qb_inspect_tensor {
  const char *name;
  int rank;
  int64_t shape[QB_SHAPE_RANK]; /* at batch one */
} qb_inspect_tensor;

/* What is in a file. Everything in it lives until qb_inspection_free. */
typedef struct qb_inspection {
  const char *path;
  char sha256[QB_SHA256_TEXT]; /* of the file */
  int64_t size_bytes, opset;
  bool supported;     /* no unsupported node: the other calls accept the file */
  const char *reason; /* why the graph could not be built when not supported, else NULL */
  int input_count, output_count, operator_count, layer_count, unsupported_count;
  qb_inspect_tensor *inputs, *outputs; /* outputs: empty when not supported */
  qb_inspect_operator *operators;      /* by first use; of the file as it is */
  qb_inspect_layer *layers;            /* (layer_count) in topological order, those that are not known last */
  qb_inspect_unsupported *unsupported; /* (unsupported_count) */
  int64_t parameters, macs;            /* sums over known layers */
  void *storage;                       /* private */
} qb_inspection;

typedef struct qb_inspect_settings {
  bool spectral; /* also the spectral norms of layers, which takes seconds to minutes; default false */
  int threads;   /* 0 (default): all cores */
} qb_inspect_settings;

QB_API void qb_inspect_settings_default(qb_inspect_settings *settings);

/* Reads a file and describes it. A valid file with unsupported nodes is not an error: they are listed with the reason.
 * `settings` and `progress` may be NULL. QB_ERROR_IO, QB_ERROR_FORMAT, QB_ERROR_NUMERIC, QB_ERROR_INTERRUPTED. */
QB_API QB_MUST_CHECK qb_status qb_inspect(const char *path, const qb_inspect_settings *settings,
                                          const qb_progress *progress, qb_inspection *inspection, qb_error *error);
QB_API void qb_inspection_free(qb_inspection *inspection);

/* ---------------------------------------------------------------------------------------------- quantizing */

typedef enum qb_scheme {
  QB_SCHEME_ROUND,   /* fixed point: the scale is a power of two */
  QB_SCHEME_UNIFORM, /* nearest code of a min-max or mse grid */
  QB_SCHEME_ADAROUND,
  QB_SCHEME_GPTQ,
  QB_SCHEME_STOCHASTIC
} qb_scheme;

typedef enum qb_granularity { QB_PER_TENSOR, QB_PER_CHANNEL } qb_granularity;

/* How the range of a grid is chosen. */
typedef enum qb_grid_choice {
  QB_GRID_MINMAX, /* every weight fits */
  QB_GRID_MSE,    /* the clip that minimises the mean square of w' - w over a fixed set of candidates */
  QB_GRID_OUTPUT  /* the clip that minimises the change of the layer's output; needs calibration samples */
} qb_grid_choice;

/* How QB_SCHEME_ADAROUND finds which weights go up and which down. */
typedef enum qb_solver {
  QB_SOLVER_DESCENT, /* tabu search from the better of two starts */
  QB_SOLVER_GRADIENT /* the published soft relaxation, 10000 Adam steps: for comparison, slow */
} qb_solver;

/* Moving factors between neighbouring layers before quantizing, channel by channel, powers of two only: the network's
 * function stays exactly as it is. */
typedef enum qb_equalization {
  QB_EQUALIZATION_NONE,
  QB_EQUALIZATION_RANGE, /* equal ranges of weights on both sides, then fewer expected rounding errors */
  QB_EQUALIZATION_L1     /* rows of |W| sum to at most 1: what the products of norms in bounds want */
} qb_equalization;

/* Taking the mean error that rounded weights put on a layer's output away with its bias. */
typedef enum qb_bias_correction {
  QB_BIAS_KEEP,
  QB_BIAS_DATA, /* measured on calibration samples, errors of earlier layers included */
  QB_BIAS_FREE  /* without data: means of inputs from BatchNormalization statistics, through Relu and Clip */
} qb_bias_correction;

/* Samples that show what inputs a network sees. Settings that use them: the schemes adaround and gptq, the grid output,
 * bias correction with data. */
typedef struct qb_calibration {
  /* Writes sample `index` < count (the elements of the network's input at batch one). Called from several threads at
   * once. */
  qb_status (*read)(const void *context, int64_t index, float *sample, qb_error *error);
  const void *context;
  int64_t count;       /* samples that `read` has; 0 (default): no calibration */
  int64_t samples;     /* used; more than `count` adds seeded flips and shifts of images. 0 (default): count */
  int positions;       /* of a convolution's map that enter its statistics per sample, drawn evenly; default 32;
                        * 0: all */
  size_t memory_bytes; /* for kept activations, default 1 GiB; less costs time, not accuracy */
} qb_calibration;

/* How the range of an activation follows from what calibration samples show. The range always holds 0. */
typedef enum qb_range_rule {
  QB_RANGE_MINMAX,     /* every number seen fits */
  QB_RANGE_PERCENTILE, /* all but a share of the numbers on each side, see activation_percentile */
  QB_RANGE_MSE         /* the clip that minimises the expected mean square change */
} qb_range_rule;

struct qb_data; /* below, at measuring */

/* Bits of one layer, chosen by the user or by an allocation. */
typedef struct qb_layer_bits {
  const char *node; /* the layer's node name */
  int bits;         /* 2..16, or 0: the layer stays float */
} qb_layer_bits;

/* How weights become integers. Fill with qb_quantize_settings_default, then change fields. */
typedef struct qb_quantize_settings {
  int bits;                   /* 2..16, default 8; layers that `plan` does not name */
  qb_scheme scheme;           /* default QB_SCHEME_UNIFORM */
  qb_granularity granularity; /* default QB_PER_CHANNEL */
  bool affine;                /* a zero point per scale; default false: symmetric. Not with QB_SCHEME_ROUND */
  bool unsigned_weights;     /* symmetric codes are stored plus 2^(bits-1), which is their zero point: the same numbers.
                              * For runtimes whose products of unsigned and signed codes saturate; default false */
  qb_grid_choice grid;       /* default QB_GRID_MINMAX; QB_SCHEME_STOCHASTIC needs it */
  uint64_t seed;             /* of randomised schemes, default 0 */
  const qb_layer_bits *plan; /* (plan_count) overrides of `bits` by layer, default NULL; every name must exist */
  int plan_count;
  int threads; /* 0 (default): all cores */
  qb_calibration calibration;
  const struct qb_data *calibration_data; /* samples from files, where calibration.count is 0; default NULL. Its own
                                           * number of samples counts, labels are not used */
  int activation_bits;            /* 8 or 16: QuantizeLinear and DequantizeLinear on activations, asymmetric unsigned
                                   * codes over ranges from the calibration samples; default 0: activations stay float.
                                   * Not with affine weights, 16 not with weights of more than 8 bits: ONNX Runtime
                                   * computes those wrongly */
  qb_range_rule activation_range; /* default QB_RANGE_MINMAX */
  double activation_percentile;   /* of QB_RANGE_PERCENTILE: the share of the numbers up to each limit, above 0.5 and
                                   * at most 1; default 0.9999 */
  qb_solver solver;               /* of QB_SCHEME_ADAROUND, default QB_SOLVER_DESCENT */
  qb_bias_correction bias_correction; /* default QB_BIAS_KEEP; QB_BIAS_DATA needs calibration */
  qb_equalization equalize;           /* default QB_EQUALIZATION_NONE */
  bool keep_interrupted;              /* when `progress` asks to stop after some layers were calibrated: give the others
                                       * nearest codes and finish, instead of QB_ERROR_INTERRUPTED; default false */
  bool bias_absorption;  /* biases of channels that are hardly ever below c > 0 move into the next layer: c is mean - 3
                          * deviations of BatchNormalization, or the smallest value on calibration samples. The function
                          * changes where a channel does fall below c. Default false */
  double damping;        /* added to the diagonal of the inputs' second moments, as a share of its mean, times 1 + 50 x
                          * (weights of an output / positions that entered); default 0.01 */
  bool activation_order; /* QB_SCHEME_GPTQ fixes columns with large inputs first; default true */
} qb_quantize_settings;

/* How the codes of a layer came about. */
typedef enum qb_layer_method {
  QB_METHOD_FLOAT,      /* it stayed float */
  QB_METHOD_DIRECT,     /* weight by weight, no calibration */
  QB_METHOD_CALIBRATED, /* as the scheme says */
  QB_METHOD_NEAREST,    /* nearest codes: they were better on the calibration samples, layer or whole network */
  QB_METHOD_UNSUPPORTED /* nearest codes: the scheme has no rule for the layer, or its statistics are too large */
} qb_layer_method;

/* What quantizing did to one layer. */
typedef struct qb_quantize_layer {
  const char *node;   /* lives as long as the model */
  int bits;           /* 0: the layer stayed float */
  int64_t weights;    /* number of weights */
  bool tied;          /* an earlier layer of the list holds the same weight, which was quantized there */
  double delta;       /* max |w' - w|, computed from the written weights */
  double mean_square; /* mean of (w' - w)^2 */
  int64_t scales;     /* number of scales; 0 when it stayed float */
  bool affine;        /* a zero point per scale is stored too */
  qb_layer_method method;
  /* On the calibration samples, NAN without: mean over output positions of the sum over channels of (y' - y)^2, y the
   * float network's output of the layer, y' that of the layer with rounded weights behind layers already rounded. */
  double error_nearest; /* with nearest codes */
  double error;         /* with the codes that were kept */
  double power;         /* the same of y' without rounding, about 0 (bias correction: about its mean), without bias */
  int64_t columns;      /* sample positions that entered */
  double seconds;       /* wall time of the layer, its share of running the networks included */
} qb_quantize_layer;

/* What happened to the float network before its weights were rounded. */
typedef struct qb_preparation {
  bool dropped;             /* nothing in the end: nearest codes were better without, see errors */
  int places;               /* equalization: layers whose output channels could be scaled */
  int places_left;          /* layers whose channels keep their scale, because the function would change */
  int64_t channels;         /* scaled */
  int64_t channels_refused; /* kept their scale because a product would not be exact */
  int clips;                /* Clip nodes that have a limit per channel now */
  double largest_scale;     /* of s and 1/s; 1: nothing scaled */
  int absorb_places;        /* bias absorption: layers with channels whose bias moved */
  int64_t absorbed;         /* such channels */
  int absorb_left; /* layers that were left alone, because the next layer pads or what lies between is no shift */
  bool exact;      /* the prepared float network is the original in exact arithmetic */
  /* Mean square error of the output with nearest codes, without and with the preparation: on calibration samples, or on
   * random inputs where there are none. NAN when nothing was to compare. */
  double error_without, error_with;
} qb_preparation;

typedef struct qb_quantize_info {
  int layer_count;
  qb_quantize_layer *layers; /* (layer_count), owned by the info */
  double delta;              /* max over layers */
  /* Mean square error of the network's output on (some of) the calibration samples, NAN without: with nearest codes on
   * the same grids, and with what was kept. Where nearest was better it was kept, and kept_nearest says so. */
  double error_nearest, error;
  bool kept_nearest;
  qb_preparation preparation;
  int biases_corrected;        /* layers whose bias was corrected */
  bool interrupted;            /* only with keep_interrupted: some layers have nearest codes instead of the scheme's */
  int activation_count;        /* values that got a quantizer; 0 when activations stay float */
  int64_t calibration_samples; /* of the caller that were used, repetitions not counted; 0 without calibration */
} qb_quantize_info;

QB_API void qb_quantize_settings_default(qb_quantize_settings *settings);
QB_API void qb_quantize_info_free(qb_quantize_info *info);

/* Bytes of the layer's weights, scales and zero points in the written file (`compat`: as in qb_save_settings), without
 * the names around them. A tied layer takes none. */
QB_API int64_t qb_quantize_layer_bytes(const qb_quantize_layer *layer, bool compat);

/* A scheme's, granularity's or grid's name on the command line and in JSON ("uniform", "channel"); never NULL. */
QB_API const char *qb_scheme_name(qb_scheme scheme);
QB_API const char *qb_granularity_name(qb_granularity granularity);
QB_API const char *qb_grid_choice_name(qb_grid_choice grid);
QB_API const char *qb_range_rule_name(qb_range_rule rule);
QB_API const char *qb_solver_name(qb_solver solver);
QB_API const char *qb_equalization_name(qb_equalization equalize);
QB_API const char *qb_bias_correction_name(qb_bias_correction correction);
QB_API const char *qb_layer_method_name(qb_layer_method method);

/* Quantizes every layer with weights, then the activations where asked. The result borrows from `model`, which must
 * outlive it. `progress` and `info` may be NULL; release `info` with qb_quantize_info_free, its strings live as long as
 * `*quantized`. QB_ERROR_ARGUMENT for settings out of range, QB_ERROR_MEMORY, QB_ERROR_INTERRUPTED; with calibration
 * also QB_ERROR_IO, QB_ERROR_FORMAT, QB_ERROR_SHAPE, QB_ERROR_NUMERIC (data), QB_ERROR_ENGINE. */
QB_API QB_MUST_CHECK qb_status qb_quantize(const qb_model *model, const qb_quantize_settings *settings,
                                           const qb_progress *progress, qb_model **quantized, qb_quantize_info *info,
                                           qb_error *error);

/* ----------------------------------------------------------------------------------------------- bounding */

/* The set of inputs over which a bound holds. */
typedef enum qb_domain_kind {
  QB_DOMAIN_PIXELS, /* every image with pixels in [0,1] after `preprocess`, a box per channel */
  QB_DOMAIN_BOX,    /* [lo, hi] for every input element, in the network's own units */
  QB_DOMAIN_FILE /* the box that a file describes: VNNLIB input bounds, or a row of a CSV with columns lo0.. and hi0..
                  */
} qb_domain_kind;

/* The paper's conventions, for reproducing its numbers. They change only the published (chain) bounds; what a
 * convention drops makes them bounds of the paper's network instead of this one, and reports say so. */
typedef struct qb_bound_conventions {
  bool drop_bias;       /* leave biases out; default false */
  bool drop_batch_norm; /* leave BatchNorm out instead of folding it; default false */
  bool drop_downsample; /* leave the 1x1 convolutions of shortcuts out of the chain; default false */
  bool drop_dense;      /* leave matrices (Gemm, MatMul) out of the chain: the convolutional part; default false */
  bool width_channels;  /* the width N counts channels instead of units C*H*W; default false */
} qb_bound_conventions;

typedef struct qb_bound_settings {
  const int *bits; /* (bits_count) widths 2..16; default 8 */
  int bits_count;
  const qb_scheme *schemes; /* (scheme_count); default uniform */
  int scheme_count;
  const qb_granularity *granularities; /* (granularity_count); default per tensor */
  int granularity_count;
  bool affine;            /* a zero point per scale; default false: symmetric */
  uint64_t seed;          /* of randomised schemes; default 0 */
  qb_domain_kind domain;  /* default QB_DOMAIN_PIXELS */
  const char *preprocess; /* QB_DOMAIN_PIXELS: how pixels become inputs; default NULL, which is an error */
  double lo, hi;          /* QB_DOMAIN_BOX */
  const char *box;        /* QB_DOMAIN_FILE: path */
  int64_t box_row;        /* which data row of a CSV, from 0; default -1: the file must hold one box */
  qb_bound_conventions conventions;
  const char *methods; /* graph bounds, joined by commas: layerwise, elementwise, two_stage, interval, spectral,
                        * product; "all"; default "layerwise". spectral takes minutes on large networks. The published
                        * bounds are always computed */
  int threads;         /* 0 (default): all cores */
} qb_bound_settings;

#define QB_BOUND_VALUE_TEXT 48
#define QB_BOUND_WHY_TEXT 200

/* One bound on the largest |output of the network - output of the quantized network| over the domain. */
typedef struct qb_bound_value {
  const char *name;                /* "prior", "general", "cnn", "chain_unsummed", "layerwise", ..., "best" */
  bool applies;                    /* false: a hypothesis fails, `why` says which */
  bool is_graph;                   /* true: proved for this network; false: the paper's, for its layers as a chain */
  const char *form;                /* "plain", "G1", "G3", "G4": the smallest valid form */
  double log10;                    /* of the bound, rounded up; -INFINITY for zero */
  char value[QB_BOUND_VALUE_TEXT]; /* decimal, rounded up: "1.2e37" */
  char why[QB_BOUND_WHY_TEXT];     /* "" when it applies */
} qb_bound_value;

enum { QB_BOUND_LIMIT = 12 };

/* One quantization of the network and its bounds. */
typedef struct qb_bound_row {
  int bits;
  qb_scheme scheme;
  qb_granularity granularity;
  double delta;        /* largest change of any weight, computed from the quantized weights */
  double output_range; /* the original's outputs move by at most this over the domain; INFINITY when unknown. A bound
                        * not below 99 % of it is vacuous: it says no more than the original network alone */
  int count;
  qb_bound_value bounds[QB_BOUND_LIMIT]; /* (count); the last is "best", the smallest graph bound */
} qb_bound_row;

typedef struct qb_bound_report {
  const char *model;    /* path */
  int layers;           /* L, layers of the chain, conventions applied */
  const char *domain;   /* for people and JSON: "pixels imagenet", "[-1, 1]" */
  double domain_radius; /* D: largest |x_i| over the domain */
  qb_bound_conventions conventions;
  bool chain_is_network; /* the chain bounds hold for this network, too */
  const char *network;   /* "this network", or why the chain is another one */
  int row_count;
  qb_bound_row *rows; /* (row_count): granularity slowest, then scheme, then bits as given */
  double seconds;     /* wall time */
  void *storage;      /* private */
} qb_bound_report;

QB_API void qb_bound_settings_default(qb_bound_settings *settings);

/* Quantizes the model in memory at every width, scheme and granularity asked for and bounds each result. Everything
 * in exact arithmetic of both networks, rounded outwards. `progress` may be NULL. QB_ERROR_ARGUMENT (settings, no
 * domain), QB_ERROR_NUMERIC (unsafe floating-point environment), QB_ERROR_MEMORY, QB_ERROR_INTERRUPTED. */
QB_API QB_MUST_CHECK qb_status qb_bound_sweep(const qb_model *model, const qb_bound_settings *settings,
                                              const qb_progress *progress, qb_bound_report *report, qb_error *error);
QB_API void qb_bound_report_free(qb_bound_report *report);

/* ---------------------------------------------------------------------------------------------- measuring */

/* Labelled inputs. */
typedef struct qb_data {
  const char *path;       /* folder of images, .npy, MNIST idx, CIFAR-10 .bin, or digits[:COUNT[:SEED]], drawn */
  const char *labels;     /* labels file where the format needs one; default NULL: found beside the data */
  const char *preprocess; /* preset or key=value pairs; default "raw" */
  int64_t samples, skip;  /* use at most this many (0: all) after leaving out the first `skip` */
  int label_offset;       /* class of the network = label + offset; default 0 */
} qb_data;

typedef struct qb_measure_settings {
  int batch;              /* samples per run, default 16 */
  int threads;            /* 0 (default): all cores */
  bool reference;         /* run plain loops in double instead of the fast float32 engine; default false */
  const char *checkpoint; /* folder that keeps finished shards, so that a call that was stopped goes on where it was;
                           * made when missing. Shards of other networks, data or settings are never used, those on
                           * which the same call has finished are. Models must come from files. Default NULL */
} qb_measure_settings;

/* One network on the data. Rates are fractions; NAN without labels. */
typedef struct qb_measure_network {
  const char *path;
  int64_t size_bytes;
  double top1, top5;
  double seconds; /* spent in the network, reading and decoding not counted */
} qb_measure_network;

/* Two networks on the same data. E_i is the largest |difference of an output| on image i. */
typedef struct qb_measurement {
  int64_t images, labelled;
  qb_measure_network model, other; /* `other` only when has_other */
  bool has_other;
  int64_t flip_count; /* images on which the two networks' largest outputs differ in position */
  double flips;       /* flip_count / images */
  double error_max, error_mean, error_p50, error_p90, error_p99; /* of E_i; the k-th smallest, k = ceil(p n) */
  int64_t error_argmax;                                          /* index of the image with the largest E_i */
  double seconds;                                                /* wall time of the call */
  void *storage;                                                 /* private */
} qb_measurement;

QB_API void qb_data_default(qb_data *data);
QB_API void qb_measure_settings_default(qb_measure_settings *settings);

/* Runs `model` and, when not NULL, `other` on the data. Numbers are measured on these images, nothing is proved.
 * QB_ERROR_ARGUMENT, QB_ERROR_IO, QB_ERROR_FORMAT, QB_ERROR_SHAPE (data and networks do not fit), QB_ERROR_ENGINE. */
QB_API QB_MUST_CHECK qb_status qb_measure(const qb_model *model, const qb_model *other, const qb_data *data,
                                          const qb_measure_settings *settings, const qb_progress *progress,
                                          qb_measurement *measurement, qb_error *error);
QB_API void qb_measurement_free(qb_measurement *measurement);

/* --------------------------------------------------------------------------------------------- certifying */

/* How far a ball reaches from its centre, in every input element. */
typedef struct qb_radius {
  double value; /* >= 0 */
  bool pixels;  /* in steps of the stored pixels, of which there are 255: divided by the scale and std of the data's
                 * preprocessing, per channel. Otherwise in the network's input units */
} qb_radius;

/* What to prove about a pair of networks. */
typedef struct qb_certify_settings {
  bool worst_case;        /* bound the largest change of an output over every input of the domain; default true */
  qb_domain_kind domain;  /* default QB_DOMAIN_PIXELS */
  const char *preprocess; /* QB_DOMAIN_PIXELS: how pixels become inputs; default NULL, which is an error */
  double lo, hi;          /* QB_DOMAIN_BOX */
  const char *box;        /* QB_DOMAIN_FILE: path */
  int64_t box_row;        /* which data row of a CSV, from 0; default -1: the file must hold one box */
  const char *methods;    /* "layerwise", "elementwise", "two_stage", "interval", "spectral", "product", "bisection"
                           * (domains in which at most ten inputs vary), joined by commas, or "all"; the smallest bound
                           * counts. Default NULL: layerwise, interval, spectral, product, bisection */
  int64_t output;         /* the one output element that counts; default -1: all */
  bool search;            /* look for inputs with a large error, which bound the worst case from below; default true */
  const qb_data *data;    /* inputs that the search starts from; default NULL */
  const qb_data *statistical; /* held-out inputs: also claim what they show about fresh ones; default NULL */
  double confidence;          /* of the statistical claim, in (0, 1); default 0.99 */
  int64_t candidates;         /* quantized networks that were tried on these inputs, this one included; default 1 */
  bool layerwise;             /* also fill qb_layerwise_statistics (layer_statistics.h) on them; default false */
  bool reference;             /* run plain loops in double on them instead of float32; default false */
  uint64_t seed;              /* of the search; default 0 */
  const qb_data *around;  /* centres of balls: bound the change of outputs around each of these inputs; default NULL */
  const qb_radius *radii; /* (radius_count) one ball for each and each centre */
  int radius_count;
  double timeout_seconds; /* of one ball, or of the bisection of a box of few inputs; default 60. What a ball may cost
                           * is decided by an estimate, so that the result does not depend on the machine; a bisection
                           * also stops by the clock */
  bool cut_neurons;       /* balls of more than ten inputs are cut up as well, across undecided neurons, as long as the
                           * timeout allows: the result then depends on the machine; default false */
  bool lsb;     /* bounds also hold when a runtime rounds ties or requantizes one step differently: the code of
                 * every quantized activation may be off by one, within its range; default false */
  bool float32; /* bounds also hold for every evaluation of both networks in float32, whatever the order of sums, fused
                 * or not, with gradual underflow; includes `lsb`; default false */
  int threads;  /* 0 (default): all cores */
} qb_certify_settings;

/* lo <= output of the quantized network - output of the network <= hi */
typedef struct qb_output_range {
  double lo, hi;
} qb_output_range;

/* sup over the domain of the largest |output of the network - output of the other| <= bound, and >= lower. */
typedef struct qb_worst_case_claim {
  bool proved;         /* some method applies; else only `methods` is set */
  const char *method;  /* that gave the bound */
  double bound;        /* rounded up, with a margin of 1e-6 for an independent check; INFINITY beyond double */
  double log10;        /* of the bound, rounded up; -INFINITY for zero */
  double lower;        /* proved at an input that was found, rounded down; 0 without a search */
  double looseness;    /* log10 of bound / lower; INFINITY when lower is 0 */
  double output_range; /* the original's output moves by at most this over the domain; INFINITY when unknown */
  bool vacuous;        /* the bound is not below 99 % of output_range: it says no more than the network */
  bool flips;          /* proved: at some input the networks have different largest outputs */
  int64_t top, other_top;
  int64_t inputs_tried; /* by the search */
  int method_count;
  qb_bound_value methods[QB_BOUND_LIMIT]; /* (method_count) all that were tried */
} qb_worst_case_claim;

/* P(E > error) <= exceedance for a fresh input, where error is the rank-th smallest that was seen. */
typedef struct qb_error_exceedance {
  int64_t rank;
  double error, exceedance;
} qb_error_exceedance;

/* A class of inputs: those of one label, or of one decision of the float network where there are no labels. */
typedef struct qb_class_claim {
  int64_t index, inputs; /* the class and how many inputs of it there are */
  int64_t flips, lost, gained;
  double flip_rate_upper;
  double accuracy_loss_upper; /* NAN without labels */
} qb_class_claim;

/* How many inputs would show that a rate is at most `target`, with the same confidence. */
typedef struct qb_sample_need {
  const char *claim; /* "flip_rate", "exceedance" */
  double target;
  int64_t inputs;       /* in all, when no further one flips or exceeds */
  int64_t at_this_rate; /* in all, when the rate stays what it was; 0: no number, the rate is not below the target */
} qb_sample_need;

enum { QB_QUANTILE_LIMIT = 4, QB_CURVE_LIMIT = 32, QB_NEED_LIMIT = 6 };

/* What held-out inputs show about fresh inputs of the same kind. With probability `confidence` over the draw of the
 * held-out inputs all limits in it hold. E is the largest |difference of an output| of an input, both
 * networks run in float32. */
typedef struct qb_statistical_claim {
  int64_t n, labelled;    /* inputs; those with a label */
  double confidence;      /* of all claims together */
  int64_t candidates;     /* networks that were tried on these inputs */
  int64_t claims;         /* that share the error probability */
  double alpha;           /* error probability of one claim: (1 - confidence) / candidates / claims, rounded down */
  bool in_double;         /* both networks ran in double instead of float32 */
  bool calibration_known; /* the quantized file says which samples made it */
  int64_t calibration_samples; /* how many; none of them is among the held-out ones */
  int64_t flips;               /* inputs on which the decisions differ */
  double flip_rate_upper;      /* P(decisions differ) is at most this */
  int64_t lost, gained;        /* labelled inputs that only the float or only the quantized network decides rightly */
  double accuracy_loss_upper;  /* accuracy of the float minus that of the quantized network; NAN without labels */
  double mcnemar_p;            /* exact, of lost against gained; no part of the guarantee */
  int quantile_count, curve_count, need_count;
  qb_error_exceedance quantiles[QB_QUANTILE_LIMIT]; /* the largest error first */
  qb_error_exceedance curve[QB_CURVE_LIMIT];        /* the largest error first; one claim together */
  bool has_classes, classes_are_labels;             /* has_classes: n is at least 40 for every class */
  int64_t class_count;
  qb_class_claim *classes; /* (class_count) those with enough inputs, by index; one claim together */
  qb_sample_need needs[QB_NEED_LIMIT];
  struct qb_layerwise_statistics *layerwise; /* beside the claims, shares nothing of their confidence; may be NULL */
} qb_statistical_claim;

typedef enum qb_decision {
  QB_DECISION_UNKNOWN,
  QB_DECISION_PROVED, /* at every input of the ball both networks have the same, unique largest output */
  QB_DECISION_REFUTED /* at some input, found and evaluated rigorously, they differ in it */
} qb_decision;

/* "PROVED", "REFUTED", "UNKNOWN" */
QB_API const char *qb_decision_name(qb_decision decision);

/* What is proved about the inputs within a radius of one centre (and within the pixels' box, where the preprocessing
 * maps pixels). */
typedef struct qb_certified_ball {
  int64_t index; /* of the centre in the data, those left out counted */
  qb_radius radius;
  char centre_sha256[QB_SHA256_TEXT]; /* of its float32 elements */
  const char *method; /* "relaxation", "bisection" (few inputs) or "interval" (a large network); NULL: nothing proved */
  const char *why;    /* the operator without a rule, when nothing is proved, or what there was no time for, else "" */
  int64_t output_count;
  const qb_output_range *outputs; /* (output_count) with a small margin for an independent check */
  double bound;                   /* largest |output| of these, or of the one asked for; INFINITY when not proved */
  double lower;                   /* proved at an input that was found, rounded down; 0 without a search */
  qb_decision decision;
  int64_t top, other_top; /* when REFUTED: the largest outputs of the two networks at that input */
  double bound_seconds, search_seconds;
} qb_certified_ball;

/* All balls of one radius. */
typedef struct qb_ball_curve_point {
  qb_radius radius;
  int64_t balls, proved, refuted, unknown; /* decisions */
  double median, largest;                  /* of the bounds */
  double lower;                            /* the largest */
  double seconds;
} qb_ball_curve_point;

typedef struct qb_balls_claim {
  const char *centres; /* for people: "digits:20:2, unit" */
  const char *note;    /* what was left out for lack of time, or "" */
  int64_t ball_count;
  const qb_certified_ball *balls; /* (ball_count) centre by centre */
  int point_count;
  const qb_ball_curve_point *curve; /* (point_count) one for each radius, as given */
} qb_balls_claim;

/* A certificate. Everything in it lives until qb_certificate_free. */
typedef struct qb_certificate {
  const char *model, *quantized; /* paths */
  char model_sha256[QB_SHA256_TEXT], quantized_sha256[QB_SHA256_TEXT];
  const char *domain;              /* for people: "pixels imagenet"; NULL without a worst case */
  char box_sha256[QB_SHA256_TEXT]; /* of the file of QB_DOMAIN_FILE, else "" */
  bool has_worst_case;
  qb_worst_case_claim worst_case;
  bool has_balls;
  qb_balls_claim balls;
  bool has_statistical;
  qb_statistical_claim statistical;
  bool lsb;     /* the bounds let codes of activations be off by one */
  bool float32; /* they hold for evaluation in float32 as well */
  double seconds;
  void *storage; /* private */
} qb_certificate;

QB_API void qb_certify_settings_default(qb_certify_settings *settings);

/* Certifies that `quantized`, any network of the same structure that was read from a file, is close to `model`, also
 * read from a file. Both speak of exact arithmetic on the float32 weights with BatchNorm folded (docs/certificate.md),
 * or also of float32 arithmetic. QB_ERROR_ARGUMENT, QB_ERROR_FORMAT (the graphs do not match: the message says where
 * they part), QB_ERROR_UNSUPPORTED, QB_ERROR_NUMERIC, QB_ERROR_MEMORY, QB_ERROR_INTERRUPTED, QB_ERROR_IO. */
QB_API QB_MUST_CHECK qb_status qb_certify(const qb_model *model, const qb_model *quantized,
                                          const qb_certify_settings *settings, const qb_progress *progress,
                                          qb_certificate *certificate, qb_error *error);
QB_API void qb_certificate_free(qb_certificate *certificate);

/* The certificate file as text (docs/certificate.md); release with qb_text_free. */
QB_API QB_MUST_CHECK qb_status qb_certificate_json(const qb_certificate *certificate, char **text, qb_error *error);

/* Writes that text to a file, which appears complete or not at all. Rank 0 alone writes. */
QB_API QB_MUST_CHECK qb_status qb_certificate_save(const qb_certificate *certificate, const char *path,
                                                   qb_error *error);

/* Checking a certificate with code that shares nothing with the engine but the reader of the two networks. */
typedef enum qb_check_verdict {
  QB_CHECK_VERIFIED, /* the claim follows: recomputed from the two files alone */
  QB_CHECK_REFUTED,  /* it does not: other files, a wrong witness, or only a larger bound */
  QB_CHECK_UNKNOWN   /* it cannot be recomputed; never to be taken for verified */
} qb_check_verdict;

typedef struct qb_check_report {
  qb_check_verdict verdict;
  char why[512];   /* a sentence */
  char method[32]; /* of the certificate, "" when it claims no worst case */
  double claimed;
  double recomputed;       /* by the checker; INFINITY when it gives none */
  bool files_match;        /* both networks are the files of the certificate */
  const char *statistical; /* of the statistical claim: "limits follow" from the counts that were measured, which are
                            * not recomputed, "refuted", or "unknown"; NULL without one */
  const char *lower; /* what searches found (the lower side, inputs that flip), evaluated again: "verified", "refuted",
                      * "unknown" where an input is not stored; NULL when nothing is claimed */
  double seconds;
} qb_check_report;

typedef struct qb_check_settings {
  int threads;        /* 0 (default): all cores */
  const char *data;   /* path as in qb_data: where the centres of balls are read that the certificate holds only hashes
                       * of, preprocessed as it says; believed where the hash fits. Default NULL */
  const char *labels; /* labels file, where the order of the data depends on it. Default NULL */
} qb_check_settings;

QB_API void qb_check_settings_default(qb_check_settings *settings);

/* Reads the certificate and both networks; `settings` may be NULL. QB_ERROR_IO, QB_ERROR_FORMAT and
 * QB_ERROR_UNSUPPORTED for files that cannot be read, QB_ERROR_ARGUMENT and QB_ERROR_SHAPE for data that are not those
 * of the certificate, QB_ERROR_NUMERIC for an unsafe floating-point environment, QB_ERROR_MEMORY. */
QB_API QB_MUST_CHECK qb_status qb_check(const char *certificate, const char *model, const char *quantized,
                                        const qb_check_settings *settings, qb_check_report *report, qb_error *error);

/* "VERIFIED", "REFUTED", "UNKNOWN" */
QB_API const char *qb_check_verdict_name(qb_check_verdict verdict);

/* The report as one line of JSON; release with qb_text_free. */
QB_API QB_MUST_CHECK qb_status qb_check_json(const qb_check_report *report, char **text, qb_error *error);

/* ----------------------------------------------------------------------------------------------- reporting */

/* What a report page shows besides both networks on the data. */
typedef struct qb_page_settings {
  const char *certificate; /* of these two files, from qb_certificate_save; default NULL: nothing is proved */
  const char *class_names; /* text file, a class a line; a leading number and a synset id are left out. Default NULL */
  const char *layer;       /* whose weights are drawn; default NULL: the one that changes the output most */
  int inputs;              /* that change most, shown; default 8, 0..64 */
  int sensitivity_samples; /* inputs on which layers are quantized one by one; default 16, 0: not measured */
  int batch;               /* samples per run, default 16 */
  int threads;             /* 0 (default): all cores */
  const char *command;     /* that made the page, shown as its origin; default NULL */
} qb_page_settings;

typedef struct qb_page_info {
  int64_t size_bytes; /* of the page */
  double seconds;
} qb_page_info;

QB_API void qb_page_settings_default(qb_page_settings *settings);

/* Runs `model` and `other`, both read from files, on the data and writes one HTML page that needs nothing else:
 * verdict, bounds beside measured errors, accuracy, layers, weights, the inputs that change most, origin. It appears
 * complete or not at all. `settings`, `progress` and `info` may be NULL. QB_ERROR_ARGUMENT, QB_ERROR_IO,
 * QB_ERROR_FORMAT (a certificate of other networks; graphs that do not match), QB_ERROR_SHAPE, QB_ERROR_MEMORY,
 * QB_ERROR_INTERRUPTED. */
QB_API QB_MUST_CHECK qb_status qb_report_page(const qb_model *model, const qb_model *other, const qb_data *data,
                                              const qb_page_settings *settings, const qb_progress *progress,
                                              const char *path, qb_page_info *info, qb_error *error);

/* ----------------------------------------------------------------------------------------------- training */

/* A multilayer perceptron to study: affine layers with ReLU between them, trained by Adam on the cross-entropy. */
typedef struct qb_train_settings {
  int layers;    /* affine layers, 1..32, default 5 */
  int width;     /* of the hidden layers, 1..65536, default 128 */
  int epochs;    /* passes over the data, >= 1, default 10 */
  int batch;     /* samples per step, 1..4096, default 128 */
  double rate;   /* first learning rate, it falls linearly to zero; > 0, default 0.001 */
  uint64_t seed; /* of the first weights and of the order of samples, default 0 */
  int threads;   /* 0 (default): all cores; the result does not depend on it */
} qb_train_settings;

typedef struct qb_train_info {
  int64_t samples, test_samples; /* test_samples is 0 without test data */
  int64_t parameters;            /* of the network */
  int inputs, classes;
  double loss;          /* mean over the last epoch */
  double accuracy;      /* fraction of the training samples */
  double test_accuracy; /* fraction of the test samples; NAN without test data */
  double seconds;       /* wall time of the training alone */
} qb_train_info;

QB_API void qb_train_settings_default(qb_train_settings *settings);

/* Trains a network on labelled data and writes it to `path` as ONNX (opset 13, `input` (N, elements of a sample) to
 * `output` (N, classes)), which appears complete or not at all; the settings go into its metadata. The same settings
 * and data give the same file on one machine. `test` and `progress` may be NULL. QB_ERROR_ARGUMENT (settings, samples
 * without labels, test data of another kind), QB_ERROR_NUMERIC (training diverged), errors of reading and writing. */
QB_API QB_MUST_CHECK qb_status qb_train_mlp(const qb_data *data, const qb_data *test, const qb_train_settings *settings,
                                            const qb_progress *progress, const char *path, qb_train_info *info,
                                            qb_error *error);

/* `path` is that of the written file. Release with qb_text_free. */
QB_API QB_MUST_CHECK qb_status qb_train_json(const char *path, const qb_train_settings *settings,
                                             const qb_train_info *info, char **text, qb_error *error);

/* --------------------------------------------------------------------------------------------------- JSON */

/* Each report as one line of JSON with a schema name (docs/json.md); release with qb_text_free. Equal reports give
 * equal bytes but for what lies under the key "timing". QB_ERROR_MEMORY. */
QB_API QB_MUST_CHECK qb_status qb_inspection_json(const qb_inspection *inspection, char **text, qb_error *error);

struct qb_allocation; /* promise.h */

/* `output` is the path of the written file, `compat` how it was saved; `allocation` may be NULL. */
QB_API QB_MUST_CHECK qb_status qb_quantize_json(const qb_model *quantized, const qb_quantize_info *info,
                                                const struct qb_allocation *allocation, const char *output,
                                                const qb_save_info *save, bool compat, char **text, qb_error *error);
QB_API QB_MUST_CHECK qb_status qb_bound_report_json(const qb_bound_report *report, char **text, qb_error *error);
QB_API QB_MUST_CHECK qb_status qb_measurement_json(const qb_measurement *measurement, char **text, qb_error *error);
QB_API void qb_text_free(char *text);

#ifdef __cplusplus
}
#endif

#include <qbound/layer_statistics.h>
#include <qbound/promise.h>
#include <qbound/reproduce.h>

#endif
