/* Accumulating second moments of a layer's inputs; see gram.h. */
#include "quant/gram.h"

#include <cblas.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/rng.h"
#include "base/size.h"

/* COLUMNS of a block are summed in float32: relative error 1e-6. Tiles are large enough for matrix products at full
 * speed and small enough to share among threads. */
enum { COLUMNS = QB_GRAM_COLUMNS, TILE = 512, STRIP = 128 };

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

bool qb_gram_supports(const qb_graph *graph, const qb_linear *linear) {
  return graph->nodes[linear->node].op != QB_OP_CONV_TRANSPOSE;
}

/* ------------------------------------------------------------------------------------------------------ creating */

static void describe(const qb_graph *graph, const qb_linear *linear, qb_gram *gram) {
  const qb_node *node = &graph->nodes[linear->node];
  const qb_shape *x = &graph->values[node->inputs[0]].shape, *y = &graph->values[node->output].shape;
  gram->groups = (size_t)linear->group;
  gram->length = (size_t)linear->row_length;
  gram->rows = (size_t)(linear->out_channels / linear->group);
  gram->channels = (size_t)linear->in_channels;
  gram->window = (qb_window){.kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}};
  gram->convolution = node->op == QB_OP_CONV;
  if (gram->convolution) {
    gram->window = node->attributes.conv.window;
    gram->height = x->dims[2];
    gram->width = x->dims[3];
    gram->out_height = y->dims[2];
    gram->out_width = y->dims[3];
  } else { /* rows of the last axis */
    gram->height = gram->out_height = 1;
    gram->width = gram->out_width = (int64_t)(qb_shape_elements(x) / gram->length);
  }
  size_t all = (size_t)(gram->out_height * gram->out_width), wanted = (size_t)gram->settings.positions;
  gram->drawn = wanted == 0 ? all : least(wanted, all);
}

/* Doubles and floats that the sums and one block take. */
static bool count_elements(const qb_gram *gram, size_t *matrix, size_t *row_matrix, size_t *block) {
  size_t outputs = gram->groups * gram->rows, square;
  return qb_size_multiply(gram->length, gram->length, &square) && qb_size_multiply(square, gram->groups, matrix) &&
         qb_size_multiply(outputs, gram->length, row_matrix) &&
         qb_size_multiply(COLUMNS, gram->groups * gram->length, block);
}

size_t qb_gram_size(const qb_graph *graph, const qb_linear *linear, const qb_gram_settings *settings) {
  qb_gram gram = {.settings = *settings};
  size_t matrix, row_matrix, block, total;
  describe(graph, linear, &gram);
  if (!count_elements(&gram, &matrix, &row_matrix, &block))
    return SIZE_MAX;
  if (!settings->matrix)
    matrix = row_matrix = 0;
  size_t outputs = gram.groups * gram.rows;
  if (!qb_size_add(matrix, row_matrix, &total) || !qb_size_add(total, block, &total) || /* two float blocks */
      !qb_size_add(total, COLUMNS * outputs / 2 + 2 * outputs, &total) ||
      !qb_size_multiply(total, sizeof(double), &total))
    return SIZE_MAX;
  return total;
}

qb_status qb_gram_create(const qb_graph *graph, const qb_linear *linear, const float *weights,
                         const qb_gram_settings *settings, qb_gram *gram, qb_error *error) {
  *gram = (qb_gram){.settings = *settings, .weights = weights};
  describe(graph, linear, gram);
  size_t matrix, row_matrix, block, outputs = gram->groups * gram->rows, features = gram->groups * gram->length;
  size_t bytes = qb_gram_size(graph, linear, settings);
  if (bytes == SIZE_MAX || !count_elements(gram, &matrix, &row_matrix, &block))
    return qb_fail_memory(error, graph->nodes[linear->node].name, bytes);
  bool made = true;
  if (settings->matrix) {
    made = (gram->h = qb_alloc(matrix, sizeof *gram->h)) != NULL &&
           (gram->r = qb_alloc(row_matrix, sizeof *gram->r)) != NULL &&
           (gram->c = qb_alloc(outputs, sizeof *gram->c)) != NULL;
  }
  made = made && (gram->mean = qb_alloc(features, sizeof *gram->mean)) != NULL &&
         (gram->shift = qb_alloc(outputs, sizeof *gram->shift)) != NULL &&
         (gram->block = qb_alloc(block, sizeof *gram->block)) != NULL &&
         (gram->difference = qb_alloc(block, sizeof *gram->difference)) != NULL &&
         (gram->products = qb_alloc(COLUMNS * outputs, sizeof *gram->products)) != NULL;
  return made ? QB_OK : qb_fail_memory(error, graph->nodes[linear->node].name, bytes);
}

void qb_gram_free(qb_gram *gram) {
  qb_free(gram->h);
  qb_free(gram->r);
  qb_free(gram->c);
  qb_free(gram->mean);
  qb_free(gram->shift);
  qb_free(gram->block);
  qb_free(gram->difference);
  qb_free(gram->products);
  *gram = (qb_gram){0};
}

/* ------------------------------------------------------------------------------------------------------ gathering */

/* The k-th of `drawn` positions of a sample: a random one of the k-th equal share of the map. */
static int64_t draw_position(const qb_gram *gram, int64_t sample, size_t k) {
  int64_t all = gram->out_height * gram->out_width;
  if (gram->drawn == (size_t)all)
    return (int64_t)k;
  qb_rng rng;
  qb_rng_seed(&rng, gram->settings.seed, (uint64_t)sample * (uint64_t)all + k);
  double share = (double)all / (double)gram->drawn;
  int64_t position = (int64_t)(share * ((double)k + qb_rng_double(&rng)));
  return position < all ? position : all - 1;
}

/* The entries of one channel in the column of one output position: (KH, KW), zeros where the window leaves the plane.
 */
static void gather_window(const qb_gram *gram, const float *plane, int64_t position, float *column) {
  const qb_window *w = &gram->window;
  int64_t top = position / gram->out_width * w->stride[0] - w->pad_begin[0];
  int64_t left = position % gram->out_width * w->stride[1] - w->pad_begin[1];
  int64_t bottom = top + (int64_t)(w->kernel[0] - 1) * w->dilation[0];
  int64_t right = left + (int64_t)(w->kernel[1] - 1) * w->dilation[1];
  bool within = top >= 0 && left >= 0 && bottom < gram->height && right < gram->width;
  for (int32_t i = 0; i < w->kernel[0]; i++)
    for (int32_t j = 0; j < w->kernel[1]; j++) {
      int64_t y = top + (int64_t)i * w->dilation[0], x = left + (int64_t)j * w->dilation[1];
      bool inside = within || (y >= 0 && y < gram->height && x >= 0 && x < gram->width);
      *column++ = inside ? plane[y * gram->width + x] : 0;
    }
}

/* The columns of one run of a sample's positions. */
typedef struct gather_run {
  const float *sample;
  size_t first, count; /* columns of the block */
} gather_run;

/* One channel of a run: all its columns while the plane is in the cache. */
static void gather_channel(const qb_gram *gram, const gather_run *run, const int64_t *positions, size_t channel,
                           float *columns) {
  size_t features = gram->groups * gram->length, area = features / gram->channels;
  const float *plane = run->sample + channel * (size_t)(gram->height * gram->width);
  for (size_t i = run->first; i < run->first + run->count; i++)
    if (gram->convolution)
      gather_window(gram, plane, positions[i], columns + i * features + channel * area);
    else if (channel == 0) /* a row of the last axis */
      memcpy(columns + i * features, run->sample + (size_t)positions[i] * gram->length, gram->length * sizeof *columns);
}

/* Columns `begin`, .. of the batch, numbered sample by sample. */
static void gather(const qb_gram *gram, const float *x, int64_t first, size_t begin, size_t count, float *columns) {
  int64_t positions[COLUMNS];
  size_t sample = begin / gram->drawn, last = count > 0 ? (begin + count - 1) / gram->drawn : sample;
  size_t elements = (gram->convolution ? gram->channels : gram->length) * (size_t)(gram->height * gram->width);
  for (size_t i = 0; i < count; i++)
    positions[i] = draw_position(gram, first + (int64_t)((begin + i) / gram->drawn), (begin + i) % gram->drawn);
#pragma omp parallel for schedule(static) collapse(2)
  for (size_t s = sample; s <= last; s++)
    for (size_t channel = 0; channel < (gram->convolution ? gram->channels : 1); channel++) {
      size_t from = s * gram->drawn > begin ? s * gram->drawn - begin : 0;
      size_t to = least((s + 1) * gram->drawn - begin, count);
      const gather_run run = {x + s * elements, from, to - from};
      gather_channel(gram, &run, positions, channel, columns);
    }
}

/* The same: xh into the block from column `at` on and, where it differs, xh - x. */
static void gather_block(qb_gram *gram, const float *x, const float *xh, int64_t first, size_t begin, size_t count,
                         size_t at) {
  size_t features = gram->groups * gram->length;
  float *columns = gram->block + at * features, *difference = gram->difference + at * features;
  gather(gram, xh, first, begin, count, columns);
  if (x == xh)
    return;
  gather(gram, x, first, begin, count, difference);
#pragma omp parallel for schedule(static)
  for (size_t i = 0; i < count; i++)
    for (size_t k = i * features; k < (i + 1) * features; k++)
      difference[k] = columns[k] - difference[k];
}

void qb_gram_gather(qb_gram *gram, const float *x, int64_t first, size_t begin, size_t count) {
  gather_block(gram, x, x, first, begin, count, 0);
}

/* --------------------------------------------------------------------------------------------------- accumulating */

/* sums (rows, columns; stride `stride`) += tile (rows, columns). */
static void fold(const float *tile, size_t rows, size_t columns, double *sums, size_t stride) {
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < columns; j++)
      sums[i * stride + j] += (double)tile[i * columns + j];
}

/* sums += a^T b over `count` columns of the block, one tile at (i, j). */
static void add_tile(const float *a, size_t a_stride, const float *b, size_t b_stride, size_t count, size_t rows,
                     size_t columns, double *sums, size_t stride) {
  float tile[TILE * TILE];
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)rows, (int)columns, (int)count, 1, a, (int)a_stride, b,
              (int)b_stride, 0, tile, (int)columns);
  fold(tile, rows, columns, sums, stride);
}

/* sums += a^T a, upper half only: half the work of a product. */
static void add_diagonal_tile(const float *a, size_t a_stride, size_t count, size_t size, double *sums, size_t stride) {
  float tile[TILE * TILE];
  cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)size, (int)count, 1, a, (int)a_stride, 0, tile, (int)size);
  for (size_t i = 0; i < size; i++)
    for (size_t j = i; j < size; j++)
      sums[i * stride + j] += (double)tile[i * size + j];
}

/* Upper tiles of H. */
static void add_matrix(qb_gram *gram, size_t count) {
  size_t length = gram->length, features = gram->groups * length, tiles = (length + TILE - 1) / TILE;
#pragma omp parallel for schedule(dynamic) collapse(3)
  for (size_t g = 0; g < gram->groups; g++)
    for (size_t i = 0; i < tiles; i++)
      for (size_t j = 0; j < tiles; j++) {
        if (j < i)
          continue;
        const float *a = gram->block + g * length + i * TILE, *b = gram->block + g * length + j * TILE;
        size_t rows = least(TILE, length - i * TILE);
        double *sums = gram->h + (g * length + i * TILE) * length + j * TILE;
        if (i == j)
          add_diagonal_tile(a, features, count, rows, sums, length);
        else
          add_tile(a, features, b, features, count, rows, least(TILE, length - j * TILE), sums, length);
      }
}

/* W (xh - x) of every column. */
static void make_products(qb_gram *gram, size_t count) {
  size_t length = gram->length, features = gram->groups * length, outputs = gram->groups * gram->rows;
  size_t strips = (count + STRIP - 1) / STRIP;
#pragma omp parallel for schedule(dynamic) collapse(2)
  for (size_t g = 0; g < gram->groups; g++)
    for (size_t s = 0; s < strips; s++)
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)least(STRIP, count - s * STRIP), (int)gram->rows,
                  (int)length, 1, gram->difference + s * STRIP * features + g * length, (int)features,
                  gram->weights + g * gram->rows * length, (int)length, 0,
                  gram->products + s * STRIP * outputs + g * gram->rows, (int)outputs);
}

/* R += W (xh - x) xh^T. */
static void add_residual(qb_gram *gram, size_t count) {
  size_t length = gram->length, features = gram->groups * length, outputs = gram->groups * gram->rows;
  size_t across = (length + TILE - 1) / TILE, down = (gram->rows + TILE - 1) / TILE;
#pragma omp parallel for schedule(dynamic) collapse(3)
  for (size_t g = 0; g < gram->groups; g++)
    for (size_t i = 0; i < down; i++)
      for (size_t j = 0; j < across; j++)
        add_tile(gram->products + g * gram->rows + i * TILE, outputs, gram->block + g * length + j * TILE, features,
                 count, least(TILE, gram->rows - i * TILE), least(TILE, length - j * TILE),
                 gram->r + (g * gram->rows + i * TILE) * length + j * TILE, length);
}

/* sums[j] += sum over columns of data[column][j], and of its square. */
static void add_columns(const float *data, size_t count, size_t width, double *sums, double *squares) {
#pragma omp parallel for schedule(static)
  for (size_t strip = 0; strip < (width + STRIP - 1) / STRIP; strip++)
    for (size_t i = 0; i < count; i++)
      for (size_t j = strip * STRIP; j < least(width, (strip + 1) * STRIP); j++) {
        double value = (double)data[i * width + j];
        sums[j] += value;
        if (squares != NULL)
          squares[j] += value * value;
      }
}

/* Adds the columns that wait in the block. */
static void flush(qb_gram *gram) {
  size_t count = gram->waiting;
  gram->waiting = 0;
  if (count == 0)
    return;
  add_columns(gram->block, count, gram->groups * gram->length, gram->mean, NULL);
  if (gram->settings.matrix)
    add_matrix(gram, count);
  if (!gram->apart)
    return;
  make_products(gram, count);
  add_columns(gram->products, count, gram->groups * gram->rows, gram->shift, gram->c);
  if (gram->settings.matrix)
    add_residual(gram, count);
}

void qb_gram_add(qb_gram *gram, const float *x, const float *xh, int64_t first, int32_t count) {
  size_t columns = (size_t)count * gram->drawn;
  if (gram->apart != (x != xh))
    flush(gram);
  gram->apart = x != xh;
  for (size_t begin = 0, some; begin < columns; begin += some) {
    some = least(COLUMNS - gram->waiting, columns - begin);
    gather_block(gram, x, xh, first, begin, some, gram->waiting);
    gram->waiting += some;
    if (gram->waiting == COLUMNS)
      flush(gram);
  }
  gram->columns += (int64_t)columns;
}

/* ------------------------------------------------------------------------------------------------------ finishing */

static void scale_all(double *values, size_t count, double factor) {
  for (size_t i = 0; i < count; i++)
    values[i] *= factor;
}

/* Means, centring and the lower half of one group's H. */
static void finish_matrix(qb_gram *gram, size_t group, double factor, bool centred) {
  size_t length = gram->length;
  double *h = gram->h + group * length * length;
  const double *mean = gram->mean + group * length;
#pragma omp parallel for schedule(static)
  for (size_t i = 0; i < length; i++)
    for (size_t j = i; j < length; j++)
      h[i * length + j] = h[i * length + j] * factor - (centred ? mean[i] * mean[j] : 0);
#pragma omp parallel for schedule(static)
  for (size_t i = 0; i < length; i++)
    for (size_t j = 0; j < i; j++)
      h[i * length + j] = h[j * length + i];
}

static void finish_rows(qb_gram *gram, double factor, bool centred) {
  size_t length = gram->length, outputs = gram->groups * gram->rows;
  for (size_t o = 0; o < outputs; o++) {
    const double *mean = gram->mean + o / gram->rows * length;
    double *r = gram->r + o * length, shift = centred ? gram->shift[o] : 0;
    gram->c[o] = gram->c[o] * factor - shift * shift;
    if (gram->c[o] < 0) /* rounding */
      gram->c[o] = 0;
    for (size_t k = 0; k < length; k++)
      r[k] = r[k] * factor - shift * mean[k];
  }
}

void qb_gram_finish(qb_gram *gram, bool centred) {
  flush(gram);
  double factor = 1 / (double)gram->columns;
  scale_all(gram->mean, gram->groups * gram->length, factor);
  scale_all(gram->shift, gram->groups * gram->rows, factor);
  if (!gram->settings.matrix)
    return;
  for (size_t g = 0; g < gram->groups; g++)
    finish_matrix(gram, g, factor, centred);
  finish_rows(gram, factor, centred);
}
