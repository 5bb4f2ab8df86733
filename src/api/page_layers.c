/* The layers of a report page: bits, norms, changes, shares of the bound, and what each layer alone does to the output.
 */
#include <math.h>
#include <string.h>

#include "api/input_domain.h"
#include "api/open_data.h"
#include "api/page_parts.h"
#include "base/error.h"
#include "bound/attribution.h"
#include "bound/norms.h"

/* A layer in both graphs; false for nodes without constant weights and for layers without a partner. */
static bool find_layer(const qb_page_work *work, qb_node_id node, qb_linear *original, qb_linear *quantized) {
  qb_node_id partner = work->pair.partner[node];
  return partner != QB_NONE && qb_graph_linear(work->pair.quantized, node, quantized) &&
         qb_graph_linear(work->pair.original, partner, original);
}

static const float *weights_of(const qb_graph *graph, qb_value_id weight) {
  return qb_view_f32(&graph->values[weight].constant);
}

static qb_status describe_layer(qb_page_work *work, const qb_linear *original, const qb_linear *quantized,
                                qb_page_layer *layer) {
  const qb_graph *before = work->pair.original, *after = work->pair.quantized;
  qb_layer_norms norms;
  qb_layer_change change;
  const qb_node *node = &before->nodes[original->node];
  const qb_codes *codes = after->values[quantized->weight].codes;
  QB_TRY(qb_layer_norms_of(before, original, &norms, work->error));
  *layer = (qb_page_layer){.name = node->name,
                           .op = qb_op_name(node->op),
                           .bits = codes != NULL ? codes->bits : 0,
                           .weights = (int64_t)qb_shape_elements(&before->values[original->weight].shape),
                           .radius = norms.weight,
                           .share = NAN,
                           .sensitivity = NAN};
  QB_TRY(qb_layer_norms_and_change(after, quantized, before, original, &norms, &change, work->error));
  layer->delta = change.weight;
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------- share of the bound */

/* Shares from logarithms: 2^(x_i - max) over their sum. */
static void normalize_shares(qb_page_layer *layers, int count) {
  double largest = -INFINITY, sum = 0;
  for (int i = 0; i < count; i++)
    largest = fmax(largest, layers[i].share);
  for (int i = 0; i < count; i++)
    sum += isfinite(largest) ? exp2(layers[i].share - largest) : 0;
  for (int i = 0; i < count; i++)
    layers[i].share = sum > 0 ? exp2(layers[i].share - largest) / sum : 0;
}

/* Without pixel limits, or where the bound has no rule, the shares stay unknown: the page says nothing then. */
static qb_status find_shares(qb_page_work *work) {
  qb_domain domain;
  qb_attribution *attribution = NULL;
  qb_error unknown;
  const qb_inputs inputs = {.kind = QB_DOMAIN_PIXELS, .preprocess = work->data->preprocess};
  if (qb_domain_make(work->pair.original, &inputs, &domain, &unknown) != QB_OK)
    return QB_OK;
  qb_status status = qb_attribution_create(work->pair.original, &domain, &attribution, &unknown);
  int count = 0;
  for (qb_node_id n = 0; status == QB_OK && n < work->pair.quantized->node_count; n++) {
    qb_linear original, quantized;
    if (find_layer(work, n, &original, &quantized))
      work->page.layers[count++].share =
          qb_attribution_layer(attribution, &original, weights_of(work->pair.quantized, quantized.weight));
  }
  if (status == QB_OK)
    normalize_shares(work->page.layers, count);
  qb_attribution_free(attribution);
  qb_domain_free(&domain);
  return status == QB_ERROR_MEMORY ? qb_fail(work->error, status, "%s", unknown.message) : QB_OK;
}

/* ------------------------------------------------------------------------------------------------------ sensitivity */

/* The original with one layer's weights replaced, against the original. */
static qb_status measure_alone(const qb_page_work *work, const qb_linear *original, const qb_linear *quantized,
                               int64_t count, double *sensitivity) {
  qb_graph graph;
  qb_run_measure_settings how;
  qb_run_measure_info info = {0};
  const qb_run_samples samples = {.context = work->dataset, .count = count, .read = qb_data_read_sample};
  qb_run_measure_settings_default(&how);
  how.batch = work->settings->batch;
  how.threads = work->settings->threads;
  qb_status status = qb_graph_clone(work->pair.original, &graph, work->error);
  if (status == QB_OK) {
    graph.values[original->weight].constant = work->pair.quantized->values[quantized->weight].constant;
    status = qb_run_measure(work->pair.original, &graph, &samples, &how, NULL, &info, work->error);
  }
  *sensitivity = info.error_mean;
  qb_run_measure_info_free(&info);
  qb_graph_free(&graph);
  return status;
}

static qb_status find_sensitivities(qb_page_work *work) {
  int64_t count = work->settings->sensitivity_samples;
  count = count < work->page.images ? count : work->page.images;
  work->page.sensitivity_images = count;
  for (int n = 0, i = 0; count > 0 && n < work->pair.quantized->node_count; n++) {
    qb_linear original, quantized;
    if (!find_layer(work, n, &original, &quantized))
      continue;
    if (!qb_progress_report(work->progress, "layers one by one", i, work->page.layer_count))
      return qb_fail(work->error, QB_ERROR_INTERRUPTED, "the report was stopped");
    QB_TRY(measure_alone(work, &original, &quantized, count, &work->page.layers[i].sensitivity));
    i++;
  }
  return QB_OK;
}

/* -------------------------------------------------------------------------------------------------------- histogram */

static int bin_of(const qb_page_histogram *h, double value) {
  int bin = (int)((value - h->lo) / (h->hi - h->lo) * QB_PAGE_BINS);
  return bin < 0 ? 0 : bin >= QB_PAGE_BINS ? QB_PAGE_BINS - 1 : bin;
}

static void count_weights(qb_page_histogram *h, const float *before, const float *after, int64_t count) {
  double largest = 0;
  for (int64_t i = 0; i < count; i++)
    largest = fmax(largest, fmax(fabs((double)before[i]), fabs((double)after[i])));
  h->hi = largest > 0 ? largest : 1;
  h->lo = -h->hi;
  for (int64_t i = 0; i < count; i++) {
    h->first[bin_of(h, (double)before[i])]++;
    h->other[bin_of(h, (double)after[i])]++;
  }
}

/* The layer that was asked for, else the quantized one with the largest sensitivity, share or change. */
static int choose_layer(const qb_page_work *work) {
  int best = -1;
  for (int i = 0; i < work->page.layer_count; i++) {
    const qb_page_layer *layer = &work->page.layers[i], *leader = best < 0 ? NULL : &work->page.layers[best];
    if (work->settings->layer != NULL) {
      if (strcmp(work->settings->layer, layer->name) == 0)
        return i;
    } else if (layer->bits > 0 && (leader == NULL || layer->sensitivity > leader->sensitivity))
      best = i;
  }
  return best;
}

static qb_status draw_weights(qb_page_work *work) {
  int chosen = choose_layer(work);
  if (chosen < 0 && work->settings->layer != NULL)
    return qb_fail(work->error, QB_ERROR_ARGUMENT, "%s has no layer named '%s'; `qbound inspect` lists them",
                   work->model->path, work->settings->layer);
  for (int n = 0, i = 0; chosen >= 0 && n < work->pair.quantized->node_count; n++) {
    qb_linear original, quantized;
    if (!find_layer(work, n, &original, &quantized) || i++ != chosen)
      continue;
    work->page.weights.title = work->page.layers[chosen].name;
    count_weights(&work->page.weights, weights_of(work->pair.original, original.weight),
                  weights_of(work->pair.quantized, quantized.weight), work->page.layers[chosen].weights);
  }
  return QB_OK;
}

qb_status qb_page_list_layers(qb_page_work *work) {
  size_t capacity = (size_t)work->pair.quantized->node_count + 1;
  work->page.layers = qb_arena_alloc(&work->arena, capacity, sizeof *work->page.layers);
  if (work->page.layers == NULL)
    return qb_fail_memory(work->error, "the layers of the report", capacity * sizeof *work->page.layers);
  for (qb_node_id n = 0; n < work->pair.quantized->node_count; n++) {
    qb_linear original, quantized;
    if (find_layer(work, n, &original, &quantized))
      QB_TRY(describe_layer(work, &original, &quantized, &work->page.layers[work->page.layer_count++]));
  }
  QB_TRY(find_shares(work));
  QB_TRY(find_sensitivities(work));
  return draw_weights(work);
}
