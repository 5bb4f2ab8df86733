/* The four non-negative products of a dense convolution in float32, in one pass over its weights and inputs.
 *
 * Weights are split and packed in panels of ROWS rows by DEPTH entries; a tile of the unfolded inputs e, a, a' is
 * packed straight from the image, in panels of COLUMNS positions, and meets the weights in registers: e += m e + (p +
 * q) max(a, a'),  a += (m + p) a,  a' += (m + q) a' A fused multiply-add rounds once instead of twice, which the count
 * of roundings covers. Each task owns one block of rows and positions: the result does not depend on the number of
 * threads. */
#include <omp.h>
#include <string.h>

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

#include "base/alloc.h"
#include "base/error.h"
#include "bound/elementwise_layer.h"

enum { LANES = 8, ROWS = 6, COLUMNS = 2 * LANES, DEPTH = 256, ROW_BLOCK = 252, POSITION_BLOCK = 96, PARTS = 4 };

enum { PART = ROWS * DEPTH }; /* of a panel */

/* Parts of the weights, and sets of inputs that they meet. */
enum { COMMON, CHANGE, ORIGINAL, QUANTIZED, LARGER = QB_ELEMENT_COUNT, SETS };

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

/* Adds left (ROWS, DEPTH), the first `depth` entries, times right (depth, COLUMNS), of which `vectors` vectors count,
 * to an output of `stride` numbers a row. */
#define DEFINE_TILE(NAME, VECTORS)                                                                                   \
  static void NAME(const float *left, const float *right, int64_t depth, int64_t stride, float *y) {                 \
    lanes sum[ROWS][VECTORS];                                                                                        \
    for (int r = 0; r < ROWS; r++)                                                                                   \
      for (int v = 0; v < VECTORS; v++)                                                                              \
        sum[r][v] = (lanes){0};                                                                                      \
    for (int64_t k = 0; k < depth; k++, left++, right += COLUMNS) {                                                  \
      lanes b[VECTORS];                                                                                              \
      _Pragma("GCC unroll 2") for (int v = 0; v < VECTORS; v++) b[v] = load(right + v * LANES);                      \
      _Pragma("GCC unroll 6") for (int r = 0; r < ROWS; r++) {                                                       \
        lanes a = left[r * DEPTH] - (lanes){0};                                                                      \
        _Pragma("GCC unroll 2") for (int v = 0; v < VECTORS; v++) sum[r][v] = multiply_add(a, b[v], sum[r][v]);      \
      }                                                                                                              \
    }                                                                                                                \
    _Pragma("GCC unroll 6") for (int r = 0; r < ROWS; r++) _Pragma("GCC unroll 2") for (int v = 0; v < VECTORS; v++) \
        add_to(y + r * stride + v * LANES, sum[r][v]);                                                               \
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
  bool exact; /* e = 0 and a = a' everywhere: both networks read the same */
  int64_t depth_blocks;
  float *packed; /* (groups, panels, depth_blocks, PARTS, ROWS, DEPTH); NULL: panels are packed where they are used */
} cut;

static float *panel_at(const cut *t, int64_t group, int64_t panel, int64_t k) {
  return t->packed + ((group * t->panels + panel) * t->depth_blocks + k / DEPTH) * PARTS * PART;
}

/* The parts of `count` weights: p + q and m + p are one rounding each. */
static void split_row(const float *restrict w, const float *restrict w_q, int64_t count, bool inverted,
                      float *restrict out) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) {
    float a = fabsf(w[i]), b = fabsf(w_q[i]), less = a < b ? a : b;
    float m = (w[i] < 0) == (w_q[i] < 0) ? less : 0, p = inverted ? b - m : a - m, q = inverted ? a - m : b - m;
    out[COMMON * PART + i] = m;
    out[CHANGE * PART + i] = p + q;
    out[ORIGINAL * PART + i] = m + p;
    out[QUANTIZED * PART + i] = m + q;
  }
}

/* Entries [k, k + depth) of a panel. Rows that it has too many are zeros. */
static void pack_panel(const element_layer *l, const cut *t, int64_t group, int64_t panel, int64_t k, int64_t depth,
                       float *out) {
  int64_t first = panel * ROWS, rows = t->rows - first < ROWS ? t->rows - first : ROWS;
  int64_t at = (group * t->rows + first) * t->depth + k;
  bool inverted = qb_bound_fault == QB_FAULT_EDGE_INVERTED;
  for (int64_t r = 0; r < rows; r++)
    split_row(l->w + at + r * t->depth, l->w_q + at + r * t->depth, depth, inverted, out + r * DEPTH);
  for (int part = 0; part < PARTS && rows < ROWS; part++)
    memset(out + part * PART + rows * DEPTH, 0, (size_t)(PART - rows * DEPTH) * sizeof *out);
}

static void pack_weights(const element_layer *l, const cut *t) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < l->linear.group * t->panels; i++)
    for (int64_t k = 0; k < t->depth; k += DEPTH)
      pack_panel(l, t, i / t->panels, i % t->panels, k, t->depth - k < DEPTH ? t->depth - k : DEPTH,
                 panel_at(t, i / t->panels, i % t->panels, k));
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
  float *columns;                                    /* (SETS, width / COLUMNS, DEPTH, COLUMNS): e, a, a', the larger */
  float *sums[QB_ELEMENT_COUNT];                     /* (panels ROWS, width) */
} block;

static float *columns_of(const block *b, int set, int64_t position) {
  return b->columns + (set * b->width + position) * DEPTH;
}

/* The larger one of a and a'. */
static void pack_larger(const block *b, int64_t depth) {
  for (int64_t p = 0; p < b->width; p += COLUMNS) {
    const float *x = columns_of(b, QB_ELEMENT_ORIGINAL, p), *y = columns_of(b, QB_ELEMENT_QUANTIZED, p);
    float *to = columns_of(b, LARGER, p);
#pragma omp simd
    for (int64_t i = 0; i < depth * COLUMNS; i++)
      to[i] = x[i] > y[i] ? x[i] : y[i];
  }
}

/* Entries [k, k + depth) of the unfolded inputs. */
static void pack_columns(const element_layer *l, const cut *t, const block *b, int64_t k, int64_t depth) {
  int64_t plane = l->height[0] * l->width[0], area = l->linear.kernel_area;
  float row[POSITION_BLOCK] = {0};
  for (int set = 0; set < QB_ELEMENT_COUNT; set++)
    for (int64_t i = 0; i < depth && (set == QB_ELEMENT_ORIGINAL || !t->exact); i++) {
      int64_t channel = b->group * t->channels + (k + i) / area, tap = (k + i) % area;
      unfold_tap(l, l->x[set] + channel * plane, tap / l->window.kernel[1], tap % l->window.kernel[1], b->first,
                 b->count, row);
      for (int64_t p = 0; p < b->width; p += COLUMNS)
        memcpy(columns_of(b, set, p) + i * COLUMNS, row + p, COLUMNS * sizeof *row);
    }
  if (!t->exact)
    pack_larger(b, depth);
}

/* --------------------------------------------------------------------------------------------------------- products */

/* One product of a panel of weights with the columns from j on. */
static void multiply_tile(const block *b, const float *left, const float *right, int64_t depth, int64_t panel,
                          int64_t j, int set) {
  float *y = b->sums[set] + panel * ROWS * b->width + j;
  if (b->count - j > LANES)
    add_wide(left, right, depth, b->width, y);
  else
    add_narrow(left, right, depth, b->width, y);
}

/* The inputs that a part of the weights meets, and where the product goes. */
static const int input_of[PARTS] = {QB_ELEMENT_ERROR, LARGER, QB_ELEMENT_ORIGINAL, QB_ELEMENT_QUANTIZED};
static const int output_of[PARTS] = {QB_ELEMENT_ERROR, QB_ELEMENT_ERROR, QB_ELEMENT_ORIGINAL, QB_ELEMENT_QUANTIZED};

static const float *right_of(const cut *t, const block *b, int part, int64_t j) {
  return columns_of(b, t->exact ? QB_ELEMENT_ORIGINAL : input_of[part], j);
}

/* Panels that are packed already: the columns stay in the nearest cache while all panels pass. */
static void multiply_packed(const cut *t, const block *b, int64_t k, int64_t depth) {
  for (int64_t j = 0; j < b->count; j += COLUMNS)
    for (int part = t->exact ? CHANGE : COMMON; part < PARTS; part++)
      for (int64_t i = 0; i < b->panels; i++)
        multiply_tile(b, panel_at(t, b->group, b->panel + i, k) + part * PART, right_of(t, b, part, j), depth, i, j,
                      output_of[part]);
}

/* Panels that are used once: packed on the way. */
static void multiply_unpacked(const element_layer *l, const cut *t, const block *b, int64_t k, int64_t depth) {
  float own[PARTS * PART];
  for (int64_t i = 0; i < b->panels; i++) {
    pack_panel(l, t, b->group, b->panel + i, k, depth, own);
    for (int part = t->exact ? CHANGE : COMMON; part < PARTS; part++)
      for (int64_t j = 0; j < b->count; j += COLUMNS)
        multiply_tile(b, own + part * PART, right_of(t, b, part, j), depth, i, j, output_of[part]);
  }
}

static void convolve_block(const element_layer *l, const cut *t, const block *b) {
  int64_t area = l->height[1] * l->width[1], row = b->panel * ROWS;
  memset(b->sums[0], 0, (size_t)(QB_ELEMENT_COUNT * b->panels * ROWS * b->width) * sizeof(float));
  for (int64_t k = 0; k < t->depth; k += DEPTH) {
    int64_t depth = t->depth - k < DEPTH ? t->depth - k : DEPTH;
    pack_columns(l, t, b, k, depth);
    if (t->packed != NULL)
      multiply_packed(t, b, k, depth);
    else
      multiply_unpacked(l, t, b, k, depth);
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
  t.depth_blocks = blocks(t.depth, DEPTH);
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
  return width * (SETS * DEPTH + QB_ELEMENT_COUNT * t->row_block * ROWS);
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
  b.sums[0] = space + SETS * b.width * DEPTH;
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

/* The first layer of a network: m e vanishes, and a is the larger one of a and a'. */
static bool is_exact(const element_layer *l) {
  int64_t count = l->channels[0] * l->height[0] * l->width[0];
  for (int64_t i = 0; i < count; i++)
    if (l->x[QB_ELEMENT_ERROR][i] != 0 || l->x[QB_ELEMENT_ORIGINAL][i] != l->x[QB_ELEMENT_QUANTIZED][i])
      return false;
  return true;
}

qb_status element_convolve(element_call *call, const element_layer *l) {
  cut t = cut_layer(l);
  int most = omp_get_max_threads(), threads = t.tasks < most ? (int)t.tasks : most;
  bool packs = t.position_blocks > 1;
  size_t weights = packs ? (size_t)(l->linear.group * t.panels * t.depth_blocks * PARTS * PART) : 0,
         each = ((size_t)block_floats(&t) + 15) / 16 * 16, needed = weights + (size_t)threads * each;
  t.exact = is_exact(l);
  call->products = t.exact ? 3 : 4;
  bool ready = reserve(call->buffer, needed);
  if (ready) {
    float *space = call->buffer->data + weights;
    t.packed = packs ? call->buffer->data : NULL;
    if (packs)
      pack_weights(l, &t);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t task = 0; task < t.tasks; task++) {
      block b = task_block(&t, task, space + (size_t)omp_get_thread_num() * each);
      convolve_block(l, &t, &b);
    }
  }
  return ready ? QB_OK : qb_fail_memory(call->error, call->node->name, needed * sizeof(float));
}
