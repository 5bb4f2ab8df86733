/* The oneDNN engine's parts. Only src/run/onednn*.c include this; nothing else in qbound sees oneDNN.
 *
 * Compiling a graph makes a list of steps for a part of the batch. A step is a oneDNN primitive or a plain loop; its
 * operands are places: a memory layout plus where the bytes are. Places of values live in one block, planned by
 * lifetime when all steps are known, so several places may share a buffer (views, sums written over an operand).
 *
 * A batch runs in parts that are small enough for the caches. With enough samples every thread is a worker that takes
 * whole parts and computes them alone in a block of its own: no barriers between threads. Otherwise there is one
 * worker, and the threads share each step. */
#ifndef QB_RUN_ONEDNN_H
#define QB_RUN_ONEDNN_H

#include <oneapi/dnnl/dnnl.h>

#include "run/fuse.h"
#include "run/plain.h"
#include "run/plan.h"

typedef enum place_kind {
  PLACE_BUFFER, /* in the planned block */
  PLACE_INPUT,  /* the caller's samples of this call */
  PLACE_FIXED,  /* parameters, owned or borrowed from the graph */
  PLACE_SCRATCH /* the primitives' work space, shared by all */
} place_kind;

typedef struct place {
  dnnl_memory_desc_t md;
  place_kind kind;
  int32_t buffer; /* PLACE_BUFFER: index into buffers */
  void *data;     /* PLACE_FIXED */
  bool owned;     /* PLACE_FIXED: release data with qb_free */
} place;

typedef struct step_argument {
  int name; /* DNNL_ARG_* */
  int32_t place;
} step_argument;

enum { STEP_ARGUMENTS = QB_MAX_INPUTS + 2 };

typedef struct step {
  dnnl_primitive_t primitive; /* NULL: `rule` */
  plain_rule rule;
  const qb_node *node;
  int32_t count; /* of arguments; of a rule: its inputs in order, then the output */
  int32_t first; /* index of its first argument */
} step;

/* What one part of a batch computes in. */
typedef struct worker {
  dnnl_stream_t stream;
  dnnl_memory_t *memories;    /* (place_count) */
  dnnl_exec_arg_t *execution; /* (argument_count) */
  unsigned char *block;
  void *scratch;
  float *padded_input; /* a full part, for a last part with fewer samples */
} worker;

typedef struct onednn_engine {
  const qb_graph *graph;
  int32_t batch;        /* samples of a part: what steps are compiled for */
  int32_t whole_batch;  /* samples of a call at most */
  int32_t step_threads; /* that share one step */
  bool *kept;           /* (value_count) */
  int32_t *value_place; /* (value_count) where a value is; QB_NONE when it is inside a fused step or not yet there */
  int32_t *plain_place; /* (value_count) the same in row-major order, QB_NONE until needed */
  int32_t *kept_place;  /* (value_count) row-major and intact when a part is done, for kept values */
  bool *absorbed;       /* (node_count) runs inside the step of an earlier node */

  place *places;
  int32_t place_count, place_capacity;
  step *steps;
  int32_t step_count, step_capacity;
  step_argument *arguments;
  int32_t argument_count, argument_capacity;
  qb_plan_item *buffers;
  bool *shared; /* per buffer: several values are views of it, so it must not be overwritten in place */
  int32_t buffer_count, buffer_capacity, shared_capacity;

  size_t scratch_size;
  worker *workers;
  int32_t worker_count;
  float **kept_data; /* (value_count) the whole batch in row-major order, for kept values */
  dnnl_engine_t device;
  dnnl_stream_t stream; /* of reorders while compiling */
} onednn_engine;

/* Turns a oneDNN status into ours. */
qb_status onednn_check(dnnl_status_t status, const onednn_engine *engine, const char *what, qb_error *error);

/* ---- onednn_places.c ---- */

/* Row-major float32 layout of a shape. */
dnnl_memory_desc_t onednn_plain_md(const qb_shape *shape);
bool onednn_is_plain(const dnnl_memory_desc_t *md);

qb_status onednn_new_place(onednn_engine *engine, const place *model, int32_t *id, qb_error *error);
/* A place in a new buffer of its own. */
qb_status onednn_new_buffer_place(onednn_engine *engine, const dnnl_memory_desc_t *md, int32_t *id, qb_error *error);
/* Parameters that the caller owns (owned = false) or hands over. */
qb_status onednn_new_fixed_place(onednn_engine *engine, const dnnl_memory_desc_t *md, void *data, bool owned,
                                 int32_t *id, qb_error *error);
/* Another layout of the same bytes. */
qb_status onednn_new_view(onednn_engine *engine, int32_t base, const dnnl_memory_desc_t *md, int32_t *id,
                          qb_error *error);

/* Appends a step and extends the lifetimes of the buffers that it touches. `arguments` has room for one more: the
 * scratchpad. The description stays the caller's. */
qb_status onednn_add_primitive(onednn_engine *engine, dnnl_primitive_desc_t description, step_argument *arguments,
                               int32_t count, qb_error *error);
qb_status onednn_add_rule(onednn_engine *engine, plain_rule rule, const qb_node *node, const int32_t *places,
                          int32_t count, qb_error *error);

/* The place of `from` in layout `md`: itself when it matches, else a new one filled by a reorder step. */
qb_status onednn_reordered(onednn_engine *engine, int32_t from, const dnnl_memory_desc_t *md, int32_t *id,
                           qb_error *error);
/* Appends a reorder from one place to another. */
qb_status onednn_copy(onednn_engine *engine, int32_t from, int32_t to, qb_error *error);
/* A value in row-major order, made at most once. */
qb_status onednn_plain_value(onednn_engine *engine, qb_value_id id, int32_t *place_id, qb_error *error);

/* ---- onednn_layers.c, onednn_nodes.c ---- */

/* A convolution and the posts of its chain. *fused says how many of them it took along; on return
 * value_place[output of the last one] is set. Sets *supported to false, and does nothing, when oneDNN has no
 * implementation. */
qb_status onednn_build_layer(onednn_engine *engine, const qb_chain *chain, int32_t *fused, bool *supported,
                             qb_error *error);

/* Any other node. *supported as above. */
qb_status onednn_build_node(onednn_engine *engine, const qb_node *node, bool *supported, qb_error *error);

/* A float32 eltwise for an activation node; false when oneDNN has none or only an approximate one. */
bool onednn_eltwise(const qb_node *node, dnnl_alg_kind_t *kind, float *alpha, float *beta);

/* Creates a primitive description; *supported is false, without an error, when there is no implementation. */
qb_status onednn_describe(onednn_engine *engine, const void *operation, const_dnnl_primitive_attr_t attributes,
                          const char *what, dnnl_primitive_desc_t *description, bool *supported, qb_error *error);

/* True for the slow general implementation. */
bool onednn_is_general(const_dnnl_primitive_desc_t description);

/* Attributes with the caller's scratchpad; destroy with dnnl_primitive_attr_destroy. */
qb_status onednn_attributes(onednn_engine *engine, dnnl_primitive_attr_t *attributes, qb_error *error);

#endif
