/* Depthwise convolutions: one channel at a time, its inputs laid out by elementwise_planes.h, so that a run over all
 * output positions needs no look at rows and edges; what lies between two rows of the output is computed and left out.
 */
#include <omp.h>

#include "base/error.h"
#include "bound/elementwise_planes.h"

enum { WORTH_THREADS = 100000, STEP = 2 };

/* |w| = m + p and |w'| = m + q of every tap, and where it begins in the planes. */
typedef struct tap {
  float m, p, q, w, w_q;
  int64_t at;
} tap;

/* What a thread works with. */
typedef struct workspace {
  float *in[QB_ELEMENT_COUNT];   /* (planes.channel + ELEMENT_PLANES_SLACK) each */
  float *sums[QB_ELEMENT_COUNT]; /* (run rounded up to whole steps) each */
  tap *taps;                     /* (kernel_area) */
} workspace;

/* e <- sum m e + (p a + q a'), a <- sum |w| a, a' <- sum |w'| a' at the positions [i, i + STEP vectors). */
static void add_taps(const element_layer *l, const workspace *s, int64_t i) {
  element_lanes common[STEP] = {{0}}, alone[STEP] = {{0}}, a[STEP] = {{0}}, q[STEP] = {{0}};
  for (const tap *t = s->taps; t < s->taps + l->linear.kernel_area; t++)
    for (int v = 0; v < STEP; v++) {
      int64_t at = t->at + i + v * ELEMENT_LANES;
      element_lanes zero = {0}, x = element_load(s->in[QB_ELEMENT_ORIGINAL] + at),
                    x_q = element_load(s->in[QB_ELEMENT_QUANTIZED] + at);
      common[v] = element_multiply_add(t->m - zero, element_load(s->in[QB_ELEMENT_ERROR] + at), common[v]);
      alone[v] += element_multiply_add(t->p - zero, x, t->q * x_q);
      a[v] = element_multiply_add(t->w - zero, x, a[v]);
      q[v] = element_multiply_add(t->w_q - zero, x_q, q[v]);
    }
  for (int v = 0; v < STEP; v++) {
    element_store(s->sums[QB_ELEMENT_ERROR] + i + v * ELEMENT_LANES, common[v] + alone[v]);
    element_store(s->sums[QB_ELEMENT_ORIGINAL] + i + v * ELEMENT_LANES, a[v]);
    element_store(s->sums[QB_ELEMENT_QUANTIZED] + i + v * ELEMENT_LANES, q[v]);
  }
}

static void read_taps(const element_layer *l, const element_planes *planes, int64_t o, tap *taps) {
  for (int64_t k = 0; k < l->linear.kernel_area; k++) {
    tap t = {.at = element_planes_tap(l, planes, k / l->window.kernel[1], k % l->window.kernel[1])};
    element_split_block(l, o, 1, k, 1, &t.m, &t.p, &t.q);
    t.w = t.m + t.p;
    t.w_q = t.m + t.q;
    taps[k] = t;
  }
}

static void filter_channel(const element_layer *l, const element_planes *planes, const workspace *s, int64_t o) {
  int64_t width = l->width[1], height = l->height[1], run = (height - 1) * planes->row_length + width;
  int64_t channel = o / (l->linear.out_channels / l->linear.group);
  read_taps(l, planes, o, s->taps);
  for (int set = 0; set < QB_ELEMENT_COUNT; set++)
    element_planes_fill_channel(l, planes, set, channel, s->in[set]);
  for (int64_t i = 0; i < run; i += STEP * ELEMENT_LANES)
    add_taps(l, s, i);
  for (int set = 0; set < QB_ELEMENT_COUNT; set++) {
    element_raise_row(s->sums[set], run, l->up.factor, l->up.shift[set][o], s->sums[set]);
    for (int64_t y = 0; y < height; y++)
      memcpy(l->y[set] + (o * height + y) * width, s->sums[set] + y * planes->row_length,
             (size_t)width * sizeof(float));
  }
}

/* ----------------------------------------------------------------------------------------------------------- memory */

static size_t input_floats(const element_planes *planes) {
  return element_whole_lines((size_t)planes->channel + ELEMENT_PLANES_SLACK);
}

static size_t sum_floats(const element_layer *l, const element_planes *planes) {
  return element_whole_lines((size_t)(l->height[1] * planes->row_length) + STEP * ELEMENT_LANES);
}

static size_t workspace_floats(const element_layer *l, const element_planes *planes) {
  size_t taps = (size_t)l->linear.kernel_area * (sizeof(tap) / sizeof(float));
  return QB_ELEMENT_COUNT * (input_floats(planes) + sum_floats(l, planes)) + element_whole_lines(taps);
}

static workspace workspace_at(const element_layer *l, const element_planes *planes, float *data) {
  workspace s;
  for (int set = 0; set < QB_ELEMENT_COUNT; set++, data += input_floats(planes)) {
    s.in[set] = data;
    memset(data + planes->channel, 0, ELEMENT_PLANES_SLACK * sizeof *data);
  }
  for (int set = 0; set < QB_ELEMENT_COUNT; set++, data += sum_floats(l, planes))
    s.sums[set] = data;
  s.taps = (tap *)(void *)data;
  return s;
}

qb_status element_convolve_depthwise(element_call *call, const element_layer *l) {
  element_planes planes = element_planes_of(l);
  bool shared = l->linear.out_channels * l->height[1] * l->width[1] > WORTH_THREADS;
  int threads = shared ? omp_get_max_threads() : 1;
  size_t each = workspace_floats(l, &planes), needed = (size_t)threads * each;
  float *data = element_reserve(call->buffer, needed);
  if (data == NULL)
    return qb_fail_memory(call->error, call->node->name, needed * sizeof(float));
#pragma omp parallel num_threads(threads)
  {
    workspace s = workspace_at(l, &planes, data + (size_t)omp_get_thread_num() * each);
#pragma omp for schedule(dynamic)
    for (int64_t o = 0; o < l->linear.out_channels; o++)
      filter_channel(l, &planes, &s, o);
  }
  return QB_OK;
}
