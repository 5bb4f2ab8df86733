/* Figure 2: the norm r_l of every layer, the largest r and the maximum geometric mean r_conv that replaces it. */
#include <math.h>
#include <stdio.h>

#include "api/model.h"
#include "base/error.h"
#include "bound/chain.h"
#include "reproduce/reproducing.h"

/* What the theorems read: r, and r_conv = (prod_k r_k / min_k r_k)^(1/(L-1)). Logarithms: for a picture, not a proof.
 */
typedef struct radii {
  double largest, mean;
} radii;

static radii measure(const qb_chain *chain) {
  double sum = 0, least = INFINITY, most = -INFINITY;
  for (int32_t l = 0; l < chain->count; l++) {
    double log = log10(chain->layers[l].norms.weight);
    sum += log;
    least = fmin(least, log);
    most = fmax(most, log);
  }
  return (radii){most, chain->count > 1 ? (sum - least) / (chain->count - 1) : most};
}

static void add_layers(const qb_study *study, const qb_chain *chain, const char *batch_norm, radii r, FILE *stream) {
  for (int32_t l = 0; l < chain->count; l++)
    fprintf(stream, "%s,%s,%d,%s,%.9g,%.9g,%.9g\n", study->name, batch_norm, l + 1,
            chain->graph->nodes[chain->layers[l].linear.node].name, chain->layers[l].norms.weight, pow(10, r.largest),
            pow(10, r.mean));
}

static void draw(qb_drawing *drawing, const qb_study *study, const qb_chain *chain, radii r) {
  qb_drawing_panel(drawing, study->name, (qb_plot_axis){.title = "layer"},
                   (qb_plot_axis){.title = "largest l1 norm of a filter", .log = true});
  for (int32_t l = 0; l < chain->count; l++) {
    qb_drawing_point(drawing, "r_{l} of a layer", QB_LOOK_POINTS, l + 1, log10(chain->layers[l].norms.weight));
    qb_drawing_point(drawing, "r, the largest", QB_LOOK_PLAIN_LINE, l + 1, r.largest);
    qb_drawing_point(drawing, "r_{conv}, the mean of Theorem 4.4", QB_LOOK_PLAIN_LINE, l + 1, r.mean);
  }
}

static qb_status add_chain(qb_reproducing *r, const qb_study *study, const qb_chain *chain, bool dropped, FILE *stream,
                           qb_drawing *drawing) {
  radii radius = measure(chain);
  add_layers(study, chain, dropped ? "drop" : "fold", radius, stream);
  if (dropped)
    return QB_OK;
  draw(drawing, study, chain, radius);
  return qb_reproduce_find(r, study->name, "r_conv against r, no number to compare with",
                           "r = %.4g, r_conv = %.4g over %d layers: (r / r_conv)^(L-1) = 1e%.1f",
                           pow(10, radius.largest), pow(10, radius.mean), chain->count,
                           (radius.largest - radius.mean) * (chain->count - 1));
}

static qb_status add_study(qb_reproducing *r, qb_study_id id, FILE *stream, qb_drawing *drawing) {
  const qb_model *model;
  QB_TRY(qb_reproduce_model(r, id, &model));
  for (int dropped = 0; model != NULL && dropped < 2; dropped++) {
    const qb_bound_conventions conventions = {.drop_bias = true, .drop_batch_norm = dropped, .drop_dense = true};
    qb_chain chain;
    qb_status status = qb_chain_extract(dropped ? &model->read : &model->graph, &conventions, &chain, r->error);
    if (status == QB_OK && chain.count > 0 && (!dropped || chain.dropped_batch_norms > 0))
      status = add_chain(r, qb_study_get(id), &chain, dropped, stream, drawing);
    qb_chain_free(&chain);
    QB_TRY(status);
  }
  return QB_OK;
}

static qb_status add_studies(qb_reproducing *r, qb_drawing *drawing) {
  static const qb_study_id studies[] = {QB_STUDY_RESNET18, QB_STUDY_RESNET50, QB_STUDY_MOBILENETV2};
  enum { COUNT = sizeof studies / sizeof *studies };
  qb_output_file file;
  QB_TRY(qb_reproduce_table(r, "network,batchnorm,layer,node,r_l,r,r_conv", &file));
  qb_status status = QB_OK;
  for (int i = 0; i < COUNT && status == QB_OK; i++) {
    status = qb_reproduce_step(r, i, COUNT);
    if (status == QB_OK)
      status = add_study(r, studies[i], file.stream, drawing);
  }
  if (status == QB_OK)
    return qb_reproduce_commit(r, &file);
  qb_output_discard(&file);
  return status;
}

qb_status qb_reproduce_figure2(qb_reproducing *r) {
  qb_drawing *drawing =
      qb_drawing_create("Figure 2: norms of the layers", "convolutional part, BatchNorm folded, no biases", 3);
  if (drawing == NULL)
    return qb_fail_memory(r->error, "a figure", sizeof *drawing);
  qb_status status = add_studies(r, drawing);
  if (status == QB_OK)
    status = qb_reproduce_picture(r, drawing);
  qb_drawing_free(drawing);
  return status;
}
