/* The five non-negative products of a dense convolution in float32, in one pass over its weights and inputs.
 *
 * Weights are split and packed once per layer, in panels of ROWS rows; a tile of the unfolded inputs e, a, a' is packed
 * straight from the image, in panels of COLUMNS positions, and meets the weights in registers:
 *   e += m e + p a + q a',  a += m a + p a,  a' += m a' + q a'
 * where p a and q a' are computed once. A fused multiply-add rounds once instead of twice, which the count of roundings
 * covers. Each task owns one block of rows and positions: the result does not depend on the number of threads. */
#include <omp.h>
#include <string.h>

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

#include "base/alloc.h"
#include "base/error.h"
#include "bound/elementwise_layer.h"

enum { LANES = 8, ROWS = 6, COLUMNS = 2 * LANES, DEPTH = 384, ROW_BLOCK = 252, POSITION_BLOCK = 96, PARTS = 3 };

/* ----------------------------------------------------------------------------------------------------- in registers */

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

static inline lanes load(const float *at) {
  lanes x;
  memcpy(&x, at, sizeof x);
  return x;
}

static inline void add_to(float *at, lanes x) {
  x += load(at);
  memcpy(at, &x, sizeof x);
}

static inline lanes multiply_add(lanes a, lanes b, lanes c) {
#if defined(__AVX2__) && defined(__FMA__)
  return (lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

/* Adds left (depth, ROWS) times right (depth, COLUMNS), of which `vectors` vectors count, to one or two outputs of
 * `stride` numbers a row. */
#define DEFINE_TILE(NAME, VECTORS)                                                                              \
  static void NAME(const float *left, const float *right, int64_t depth, int64_t stride, float *y, float *z) {  \
    lanes sum[ROWS][VECTORS];                                                                                   \
    for (int r = 0; r < ROWS; r++)                                                                              \
      for (int v = 0; v < VECTORS; v++)                                                                         \
        sum[r][v] = (lanes){0};                                                                                 \
    for (int64_t k = 0; k < depth; k++, left += ROWS, right += COLUMNS) {                                       \
      lanes b[VECTORS];                                                                                         \
      _Pragma("GCC unroll 2") for (int v = 0; v < VECTORS; v++) b[v] = load(right + v * LANES);                 \
      _Pragma("GCC unroll 6") for (int r = 0; r < ROWS; r++) {                                                  \
        lanes a = left[r] - (lanes){0};                                                                         \
        _Pragma("GCC unroll 2") for (int v = 0; v < VECTORS; v++) sum[r][v] = multiply_add(a, b[v], sum[r][v]); \
      }                                                                                                         \
    }                                                                                                           \
    for (int r = 0; r < ROWS; r++)                                                                              \
      for (int v = 0; v < VECTORS; v++) {                                                                       \
        add_to(y + r * stride + v * LANES, sum[r][v]);                                                          \
        if (z != NULL)                                                                                          \
          add_to(z + r * stride + v * LANES, sum[r][v]);                                                        \
      }                                                                                                         \
  }

DEFINE_TILE(add_wide, 2)
DEFINE_TILE(add_narrow, 1)

/* ---------------------------------------------------------------------------------------------------------- weights */

static int64_t round_up_to(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

/* How a convolution is cut; independent of the number of threads. */
typedef struct cut {
  int64_t rows, panels, depth; /* of a group: rows, row panels, entries of a row */
  int64_t positions, channels; /* of the output map; input channels of a group */
  int64_t row_block, row_blocks, position_block, position_blocks, tasks;
  float *packed; /* (groups, panels, PARTS, depth, ROWS): common, own, own' */
} cut;

static float *panel_at(const cut *t, int64_t group, int64_t panel) {
  return t->packed + (group * t->panels + panel) * PARTS * t->depth * ROWS;
}

/* Rows that a panel has too many are zeros. */
static void pack_panel(const element_layer *l, const cut *t, int64_t group, int64_t panel) {
  float parts[PARTS][ROWS * DEPTH], *out = panel_at(t, group, panel);
  int64_t first = panel * ROWS, rows = t->rows - first < ROWS ? t->rows - first : ROWS;
  for (int64_t k = 0; k < t->depth; k += DEPTH) {
    int64_t depth = t->depth - k < DEPTH ? t->depth - k : DEPTH;
    memset(parts, 0, sizeof parts);
    element_split_block(l, group * t->rows + first, rows, k, depth, parts[0], parts[1], parts[2]);
    for (int part = 0; part < PARTS; part++) {
      float *to = out + (part * t->depth + k) * ROWS;
      for (int64_t i = 0; i < depth; i++)
        for (int64_t r = 0; r < ROWS; r++)
          to[i * ROWS + r] = parts[part][r * depth + i];
    }
  }
}

static void pack_weights(const element_layer *l, const cut *t) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < l->linear.group * t->panels; i++)
    pack_panel(l, t, i / t->panels, i % t->panels);
}

/* ----------------------------------------------------------------------------------------------------------- inputs */

/* What one tap (a, b) reads from `plane` at the output positions [first, first + count). */
static void unfold_tap(const element_layer *l, const float *plane, int64_t a, int64_t b, int64_t first, int64_t count,
                       float *out) {
  int64_t width = l->width[1], stride = l->window.stride[1], begin, end;
  int64_t shift = b * l->window.dilation[1] - l->window.pad_begin[1];
  element_inside_columns(l, b, &begin, &end);
  memset(out, 0, (size_t)count * sizeof *out);
  for (int64_t p = first; p < first + count;) {
    int64_t z = p % width, run = width - z < first + count - p ? width - z : first + count - p;
    int64_t row = p / width * l->window.stride[0] + a * l->window.dilation[0] - l->window.pad_begin[0];
    int64_t from = z > begin ? z : begin, to = z + run < end ? z + run : end;
    if (row >= 0 && row < l->height[0]) {
      const float *in = plane + row * l->width[0];
      float *to_out = out + (p - first) - z;
      if (stride == 1 && to > from)
        memcpy(to_out + from, in + from + shift, (size_t)(to - from) * sizeof *out);
      for (int64_t x = from; stride != 1 && x < to; x++)
        to_out[x] = in[x * stride + shift];
    }
    p += run;
  }
}

/* One block of work: rows of one group at positions [first, first + count), and its buffers. */
typedef struct block {
  int64_t group, panel, panels, first, count, width; /* width: count rounded up to whole panels */
  float *columns;                                    /* (sets, width / COLUMNS, DEPTH, COLUMNS): e, a, a' */
  float *sums[QB_ELEMENT_COUNT];                     /* (panels ROWS, width) */
} block;

static float *columns_of(const block *b, int set, int64_t position) {
  return b->columns + (set * b->width + position) * DEPTH;
}

/* Entries [k, k + depth) of the unfolded inputs. */
static void pack_columns(const element_layer *l, const cut *t, const block *b, int64_t k, int64_t depth) {
  int64_t plane = l->height[0] * l->width[0], area = l->linear.kernel_area;
  float row[POSITION_BLOCK] = {0};
  for (int set = 0; set < QB_ELEMENT_COUNT; set++)
    for (int64_t i = 0; i < depth; i++) {
      int64_t channel = b->group * t->channels + (k + i) / area, tap = (k + i) % area;
      unfold_tap(l, l->x[set] + channel * plane, tap / l->window.kernel[1], tap % l->window.kernel[1], b->first,
                 b->count, row);
      for (int64_t p = 0; p < b->width; p += COLUMNS)
        memcpy(columns_of(b, set, p) + i * COLUMNS, row + p, COLUMNS * sizeof *row);
    }
}

/* --------------------------------------------------------------------------------------------------------- products */

static void multiply_panels(const cut *t, const block *b, int64_t k, int64_t depth) {
  enum { E, A, Q };
  for (int64_t i = 0; i < b->panels; i++) {
    const float *weights = panel_at(t, b->group, b->panel + i) + k * ROWS;
    const float *m = weights, *p = m + t->depth * ROWS, *q = p + t->depth * ROWS;
    for (int64_t j = 0; j < b->count; j += COLUMNS) {
      void (*add)(const float *, const float *, int64_t, int64_t, float *, float *) =
          b->count - j > LANES ? add_wide : add_narrow;
      float *y[QB_ELEMENT_COUNT];
      for (int set = 0; set < QB_ELEMENT_COUNT; set++)
        y[set] = b->sums[set] + i * ROWS * b->width + j;
      add(m, columns_of(b, E, j), depth, b->width, y[E], NULL);
      add(m, columns_of(b, A, j), depth, b->width, y[A], NULL);
      add(m, columns_of(b, Q, j), depth, b->width, y[Q], NULL);
      add(p, columns_of(b, A, j), depth, b->width, y[A], y[E]);
      add(q, columns_of(b, Q, j), depth, b->width, y[Q], y[E]);
    }
  }
}

static void convolve_block(const element_layer *l, const cut *t, const block *b) {
  int64_t area = l->height[1] * l->width[1], row = b->panel * ROWS;
  memset(b->sums[0], 0, (size_t)(QB_ELEMENT_COUNT * b->panels * ROWS * b->width) * sizeof(float));
  for (int64_t k = 0; k < t->depth; k += DEPTH) {
    int64_t depth = t->depth - k < DEPTH ? t->depth - k : DEPTH;
    pack_columns(l, t, b, k, depth);
    multiply_panels(t, b, k, depth);
  }
  for (int64_t r = 0; r < b->panels * ROWS && row + r < t->rows; r++)
    for (int set = 0; set < QB_ELEMENT_COUNT; set++) {
      int64_t o = b->group * t->rows + row + r;
      element_raise_row(b->sums[set] + r * b->width, b->count, l->up.factor, l->up.shift[set][o],
                        l->y[set] + o * area + b->first);
    }
}

/* ------------------------------------------------------------------------------------------------------------ tasks */

static int64_t blocks(int64_t count, int64_t size) { return (count + size - 1) / size; }

static cut cut_layer(const element_layer *l) {
  cut t = {.rows = l->linear.out_channels / l->linear.group,
           .depth = l->linear.row_length,
           .positions = l->height[1] * l->width[1],
           .channels = l->linear.in_channels / l->linear.group};
  t.panels = blocks(t.rows, ROWS);
  t.row_blocks = blocks(t.panels * ROWS, ROW_BLOCK);
  t.row_block = blocks(t.panels, t.row_blocks);
  t.position_blocks = blocks(t.positions, POSITION_BLOCK);
  t.position_block = blocks(t.positions, t.position_blocks);
  t.position_block =
      round_up_to(t.position_block, COLUMNS) < POSITION_BLOCK ? round_up_to(t.position_block, COLUMNS) : POSITION_BLOCK;
  t.position_blocks = blocks(t.positions, t.position_block);
  t.tasks = l->linear.group * t.row_blocks * t.position_blocks;
  return t;
}

static int64_t block_floats(const cut *t) {
  int64_t width = round_up_to(t->position_block, COLUMNS);
  return QB_ELEMENT_COUNT * width * (DEPTH + t->row_block * ROWS);
}

static block task_block(const cut *t, int64_t task, float *space) {
  int64_t position = task % t->position_blocks, row = task / t->position_blocks % t->row_blocks;
  block b = {.group = task / t->position_blocks / t->row_blocks,
             .panel = row * t->row_block,
             .first = position * t->position_block,
             .columns = space};
  b.panels = t->panels - b.panel < t->row_block ? t->panels - b.panel : t->row_block;
  b.count = t->positions - b.first < t->position_block ? t->positions - b.first : t->position_block;
  b.width = round_up_to(b.count, COLUMNS);
  b.sums[0] = space + QB_ELEMENT_COUNT * b.width * DEPTH;
  for (int set = 1; set < QB_ELEMENT_COUNT; set++)
    b.sums[set] = b.sums[set - 1] + b.panels * ROWS * b.width;
  return b;
}

static bool reserve(element_buffer *buffer, size_t count) {
  if (buffer->count < count) {
    qb_free(buffer->data);
    buffer->data = qb_alloc_uncleared(count, sizeof *buffer->data);
    buffer->count = buffer->data == NULL ? 0 : count;
  }
  return buffer->data != NULL;
}

qb_status element_convolve(element_call *call, const element_layer *l) {
  cut t = cut_layer(l);
  int most = omp_get_max_threads(), threads = t.tasks < most ? (int)t.tasks : most;
  size_t weights = ((size_t)(l->linear.group * t.panels * ROWS * PARTS * t.depth) + 15) / 16 * 16,
         each = ((size_t)block_floats(&t) + 15) / 16 * 16;
  size_t needed = weights + (size_t)threads * each;
  bool ready = reserve(call->buffer, needed);
  if (ready) {
    float *space = call->buffer->data + weights;
    t.packed = call->buffer->data;
    pack_weights(l, &t);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t task = 0; task < t.tasks; task++) {
      block b = task_block(&t, task, space + (size_t)omp_get_thread_num() * each);
      convolve_block(l, &t, &b);
    }
  }
  return ready ? QB_OK : qb_fail_memory(call->error, call->node->name, needed * sizeof(float));
}
