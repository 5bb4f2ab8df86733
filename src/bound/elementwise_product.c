/* The four non-negative products of a dense convolution in float32, in one pass over its weights and inputs.
 *
 * Weights are split and packed in panels of ROWS rows by DEPTH entries; a tile of the unfolded inputs e, a, a' is
 * packed straight from the image, in panels of COLUMNS positions, and meets the weights in registers: e += m e + (p +
 * q) max(a, a'),  a += (m + p) a,  a' += (m + q) a' A fused multiply-add rounds once instead of twice, which the count
 * of roundings covers. Each task owns one block of rows and positions: the result does not depend on the number of
 * threads. */
#include <omp.h>
#include <string.h>

#include "base/error.h"
#include "bound/elementwise_planes.h"

enum {
  ROWS = 6,
  COLUMNS = 2 * ELEMENT_LANES,
  DEPTH = 256,
  ROW_BLOCK = 132,
  POSITION_BLOCK = 96,
  PARTS = 4,
  UNPACKED = 11, /* panels that are packed together where they are used once */
};

enum { PART = ROWS * DEPTH }; /* of a panel */

/* Parts of the weights: m, |w - w'|, |w| and |w'|. */
enum { COMMON, CHANGE, ORIGINAL, QUANTIZED };

/* ----------------------------------------------------------------------------------------------------- in registers */

static inline void add_to(float *at, element_lanes x) { element_store(at, x + element_load(at)); }

/* Adds left (ROWS, DEPTH), the first `depth` entries, times right (depth, COLUMNS), of which `vectors` vectors count,
 * to an output of `stride` numbers a row. */
#define DEFINE_TILE(NAME, VECTORS)                                                                                   \
  static void NAME(const float *left, const float *right, int64_t depth, int64_t stride, float *y) {                 \
    element_lanes sum[ROWS][VECTORS];                                                                                \
    for (int r = 0; r < ROWS; r++)                                                                                   \
      for (int v = 0; v < VECTORS; v++)                                                                              \
        sum[r][v] = (element_lanes){0};                                                                              \
    for (int64_t k = 0; k < depth; k++, left++, right += COLUMNS) {                                                  \
      element_lanes b[VECTORS];                                                                                      \
      _Pragma("GCC unroll 2") for (int v = 0; v < VECTORS; v++) b[v] = element_load(right + v * ELEMENT_LANES);      \
      _Pragma("GCC unroll 6") for (int r = 0; r < ROWS; r++) {                                                       \
        element_lanes a = left[r * DEPTH] - (element_lanes){0};                                                      \
        _Pragma("GCC unroll 2") for (int v = 0; v < VECTORS; v++) sum[r][v] =                                        \
            element_multiply_add(a, b[v], sum[r][v]);                                                                \
      }                                                                                                              \
    }                                                                                                                \
    _Pragma("GCC unroll 6") for (int r = 0; r < ROWS; r++) _Pragma("GCC unroll 2") for (int v = 0; v < VECTORS; v++) \
        add_to(y + r * stride + v * ELEMENT_LANES, sum[r][v]);                                                       \
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
  int64_t depth_blocks, area;
  element_planes planes;
  int64_t *taps; /* (area) where they begin in a channel */
  float *packed; /* (groups, depth_blocks, PARTS, panels, ROWS, DEPTH); NULL: panels are packed where they are used */
} cut;

/* Entries [k, k + DEPTH) of part 0 of a panel; the other parts lie `panels` panels apart. */
static float *panel_at(const cut *t, int64_t group, int64_t panel, int64_t k) {
  return t->packed + (((group * t->depth_blocks + k / DEPTH) * PARTS) * t->panels + panel) * PART;
}

/* The parts of `count` weights. p + q = |w - w'| is one rounding. */
static void split_row(const float *restrict w, const float *restrict w_q, int64_t count, int64_t stride,
                      float *restrict out) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) {
    float a = fabsf(w[i]), b = fabsf(w_q[i]), less = a < b ? a : b;
    out[COMMON * stride + i] = (w[i] < 0) == (w_q[i] < 0) ? less : 0;
    out[CHANGE * stride + i] = fabsf(w[i] - w_q[i]);
    out[ORIGINAL * stride + i] = a;
    out[QUANTIZED * stride + i] = b;
  }
}

/* Entries [k, k + depth) of a panel, parts `stride` apart. Rows that it has too many are zeros. */
static void pack_panel(const element_layer *l, const cut *t, int64_t group, int64_t panel, int64_t k, int64_t depth,
                       int64_t stride, float *out) {
  int64_t first = panel * ROWS, rows = t->rows - first < ROWS ? t->rows - first : ROWS;
  int64_t at = (group * t->rows + first) * t->depth + k;
  bool inverted = qb_bound_fault == QB_FAULT_EDGE_INVERTED;
  const float *w = inverted ? l->w_q : l->w, *w_q = inverted ? l->w : l->w_q;
  for (int64_t r = 0; r < rows; r++)
    split_row(w + at + r * t->depth, w_q + at + r * t->depth, depth, stride, out + r * DEPTH);
  for (int part = 0; part < PARTS && rows < ROWS; part++)
    memset(out + part * stride + rows * DEPTH, 0, (size_t)(PART - rows * DEPTH) * sizeof *out);
}

static void pack_weights(const element_layer *l, const cut *t) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < l->linear.group * t->panels; i++)
    for (int64_t k = 0; k < t->depth; k += DEPTH)
      pack_panel(l, t, i / t->panels, i % t->panels, k, t->depth - k < DEPTH ? t->depth - k : DEPTH, t->panels * PART,
                 panel_at(t, i / t->panels, i % t->panels, k));
}

/* ----------------------------------------------------------------------------------------------------------- inputs */

/* Positions side by side in the output and in the planes: those `from` on in a plane go to `to` in the columns. */
typedef struct run {
  int64_t from, to;
} run;

/* One block of work: rows of one group at positions [first, first + count), and its buffers. */
typedef struct block {
  int64_t group, panel, panels, first, count, width; /* width: count rounded up to whole panels */
  float *columns;                                    /* (ELEMENT_SETS, width / COLUMNS, DEPTH + 1, COLUMNS) */
  float *sums[QB_ELEMENT_COUNT];                     /* (panels ROWS, width) */
  float *own;                                        /* (PARTS, UNPACKED, ROWS, DEPTH) */
  int32_t run_count;
  run runs[POSITION_BLOCK]; /* where its positions lie */
} block;

static float *columns_of(const block *b, int set, int64_t position) {
  return b->columns + (set * b->width + position) * (DEPTH + 1);
}

/* Where the positions of a block lie in the planes: each run goes on until its row of the output or its panel ends. */
static void find_runs(const element_layer *l, const element_planes *planes, block *b) {
  int64_t width = l->width[1];
  b->run_count = 0;
  for (int64_t i = 0, p = b->first; i < b->count;) {
    int64_t z = p % width, length = COLUMNS - i % COLUMNS;
    length = width - z < length ? width - z : length;
    length = b->count - i < length ? b->count - i : length;
    b->runs[b->run_count++] =
        (run){p / width * planes->row_length + z, i / COLUMNS * COLUMNS * (DEPTH + 1) + i % COLUMNS};
    i += length;
    p += length;
  }
}

static void copy_panel(const float *from, float *to) {
  for (int v = 0; v < COLUMNS; v += ELEMENT_LANES)
    element_store(to + v, element_load(from + v));
}

/* Entries [k, k + depth) of one set of unfolded inputs. Every run is copied as if it filled its panel: what it has too
 * much the next run or the next entry overwrites, and behind the last one there is room. */
static void pack_set(const cut *t, const block *b, int set, int64_t k, int64_t depth) {
  int64_t channel = k / t->area, tap = k % t->area;
  const float *in = t->planes.data + set * t->planes.set + b->group * t->channels * t->planes.channel;
  float *out = columns_of(b, set, 0);
  for (int64_t i = 0; i < depth; i++, out += COLUMNS) {
    const float *from = in + channel * t->planes.channel + t->taps[tap];
    for (const run *r = b->runs; r < b->runs + b->run_count; r++)
      copy_panel(from + r->from, out + r->to);
    channel += tap == t->area - 1;
    tap = tap == t->area - 1 ? 0 : tap + 1;
  }
}

static void pack_columns(const cut *t, const block *b, int64_t k, int64_t depth) {
  for (int set = 0; set < ELEMENT_SETS; set++)
    if (set == QB_ELEMENT_ORIGINAL || !t->planes.exact)
      pack_set(t, b, set, k, depth);
}

/* --------------------------------------------------------------------------------------------------------- products */

/* One product of a panel of weights with the columns from j on. */
static void multiply_tile(const block *b, const float *left, const float *right, int64_t depth, int64_t panel,
                          int64_t j, int set) {
  float *y = b->sums[set] + panel * ROWS * b->width + j;
  if (b->count - j > ELEMENT_LANES)
    add_wide(left, right, depth, b->width, y);
  else
    add_narrow(left, right, depth, b->width, y);
}

/* The inputs that a part of the weights meets, and where the product goes. */
static const int input_of[PARTS] = {QB_ELEMENT_ERROR, ELEMENT_LARGER, QB_ELEMENT_ORIGINAL, QB_ELEMENT_QUANTIZED};
static const int output_of[PARTS] = {QB_ELEMENT_ERROR, QB_ELEMENT_ERROR, QB_ELEMENT_ORIGINAL, QB_ELEMENT_QUANTIZED};

static const float *right_of(const cut *t, const block *b, int part, int64_t j) {
  return columns_of(b, t->planes.exact ? QB_ELEMENT_ORIGINAL : input_of[part], j);
}

/* `count` panels from `panel` on, the parts of the first one at `left` and `stride` apart. A panel of columns stays in
 * the nearest cache while all panels of weights pass. */
static void multiply_panels(const cut *t, const block *b, const float *left, int64_t stride, int64_t depth,
                            int64_t panel, int64_t count) {
  for (int part = t->planes.exact ? CHANGE : COMMON; part < PARTS; part++)
    for (int64_t j = 0; j < b->count; j += COLUMNS)
      for (int64_t i = 0; i < count; i++)
        multiply_tile(b, left + part * stride + i * PART, right_of(t, b, part, j), depth, panel + i, j,
                      output_of[part]);
}

/* Panels that are used once are packed on the way, as many as the second cache holds. */
static void multiply_unpacked(const element_layer *l, const cut *t, const block *b, int64_t k, int64_t depth) {
  for (int64_t first = 0; first < b->panels; first += UNPACKED) {
    int64_t count = b->panels - first < UNPACKED ? b->panels - first : UNPACKED;
    for (int64_t i = 0; i < count; i++)
      pack_panel(l, t, b->group, b->panel + first + i, k, depth, UNPACKED * PART, b->own + i * PART);
    multiply_panels(t, b, b->own, UNPACKED * PART, depth, first, count);
  }
}

static void convolve_block(const element_layer *l, const cut *t, block *b) {
  int64_t area = l->height[1] * l->width[1], row = b->panel * ROWS;
  find_runs(l, &t->planes, b);
  memset(b->sums[0], 0, (size_t)(QB_ELEMENT_COUNT * b->panels * ROWS * b->width) * sizeof(float));
  for (int64_t k = 0; k < t->depth; k += DEPTH) {
    int64_t depth = t->depth - k < DEPTH ? t->depth - k : DEPTH;
    pack_columns(t, b, k, depth);
    if (t->packed != NULL)
      multiply_panels(t, b, panel_at(t, b->group, b->panel, k), t->panels * PART, depth, 0, b->panels);
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
           .channels = l->linear.in_channels / l->linear.group,
           .area = l->linear.kernel_area,
           .planes = element_planes_of(l)};
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
  return width * (ELEMENT_SETS * (DEPTH + 1) + QB_ELEMENT_COUNT * t->row_block * ROWS) + UNPACKED * PARTS * PART;
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
  b.sums[0] = space + ELEMENT_SETS * b.width * (DEPTH + 1);
  for (int set = 1; set < QB_ELEMENT_COUNT; set++)
    b.sums[set] = b.sums[set - 1] + b.panels * ROWS * b.width;
  b.own = b.sums[QB_ELEMENT_COUNT - 1] + b.panels * ROWS * b.width;
  return b;
}

/* The first layer of a network: m e vanishes, and a is the larger one of a and a'. */
static bool is_exact(const element_layer *l) {
  int64_t count = l->channels[0] * l->height[0] * l->width[0];
  for (int64_t i = 0; i < count; i++)
    if (l->x[QB_ELEMENT_ERROR][i] != 0 || l->x[QB_ELEMENT_ORIGINAL][i] != l->x[QB_ELEMENT_QUANTIZED][i])
      return false;
  return true;
}

static qb_status find_taps(element_call *call, const element_layer *l, cut *t) {
  t->taps = qb_arena_alloc(call->scratch, (size_t)t->area, sizeof *t->taps);
  if (t->taps == NULL)
    return qb_fail_memory(call->error, call->node->name, (size_t)t->area * sizeof *t->taps);
  for (int64_t k = 0; k < t->area; k++)
    t->taps[k] = element_planes_tap(l, &t->planes, k / l->window.kernel[1], k % l->window.kernel[1]);
  return QB_OK;
}

qb_status element_convolve(element_call *call, const element_layer *l) {
  cut t = cut_layer(l);
  int most = omp_get_max_threads(), threads = t.tasks < most ? (int)t.tasks : most;
  bool packs = t.position_blocks > 1;
  size_t weights = packs ? (size_t)(l->linear.group * t.panels * t.depth_blocks * PARTS * PART) : 0;
  size_t planes = element_whole_lines(element_planes_size(&t.planes)),
         each = element_whole_lines((size_t)block_floats(&t));
  size_t needed = weights + planes + (size_t)threads * each;
  QB_TRY(find_taps(call, l, &t));
  float *space = element_reserve(call->buffer, needed);
  if (space == NULL)
    return qb_fail_memory(call->error, call->node->name, needed * sizeof(float));
  t.packed = packs ? space : NULL;
  t.planes.data = space + weights;
  t.planes.exact = is_exact(l);
  call->products = t.planes.exact ? 3 : 4;
  element_planes_fill(l, &t.planes);
  if (packs)
    pack_weights(l, &t);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t task = 0; task < t.tasks; task++) {
    block b = task_block(&t, task, space + weights + planes + (size_t)omp_get_thread_num() * each);
    convolve_block(l, &t, &b);
  }
  return QB_OK;
}
