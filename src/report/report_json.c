/* Every report as JSON; the keys are described in docs/json.md and checked against docs/schema. */
#include "report/report_json.h"

#include <math.h>
#include <string.h>

#include "report/allocation_json.h"
#include "report/json.h"

static json_t *shape(int rank, const int64_t *dims) {
  json_t *array = json_array();
  for (int i = 0; i < rank; i++)
    array = qb_json_append(array, json_integer(dims[i]));
  return array;
}

/* ---------------------------------------------------------------------------------------------------- inspecting */

static json_t *inspected_tensors(const qb_inspect_tensor *tensors, int count) {
  json_t *array = json_array();
  for (int i = 0; i < count; i++) {
    json_t *entry = qb_json_put(json_object(), "name", qb_json_text(tensors[i].name));
    array = qb_json_append(array, qb_json_put(entry, "shape", shape(tensors[i].rank, tensors[i].shape)));
  }
  return array;
}

static json_t *inspected_layer(const qb_inspect_layer *layer) {
  json_t *entry = qb_json_put(json_object(), "node", qb_json_text(layer->node));
  entry = qb_json_put(entry, "op", qb_json_text(layer->op));
  entry = qb_json_put(entry, "weight_shape", shape(layer->weight_rank, layer->weight_shape));
  entry = qb_json_put(entry, "output_shape", shape(layer->output_rank, layer->output_shape));
  entry = qb_json_put(entry, "parameters", json_integer(layer->parameters));
  if (!layer->known)
    return qb_json_put(entry, "known", json_false());
  entry = qb_json_put(entry, "known", json_true());
  entry = qb_json_put(entry, "macs", json_integer(layer->macs));
  entry = qb_json_put(entry, "n_l", json_integer(layer->row_length));
  entry = qb_json_put(entry, "r_l", qb_json_real(layer->radius));
  entry = qb_json_put(entry, "sigma", qb_json_real(layer->sigma));
  entry = qb_json_put(entry, "largest", qb_json_real(layer->largest));
  entry = qb_json_put(entry, "range_ratio", qb_json_real(layer->range_ratio));
  entry = qb_json_put(entry, "zero_channels", json_integer(layer->zero_channels));
  return qb_json_put(entry, "bits", layer->bits > 0 ? json_integer(layer->bits) : json_string("float"));
}

static json_t *inspected_unsupported(const qb_inspection *inspection) {
  json_t *array = json_array();
  for (int i = 0; i < inspection->unsupported_count; i++) {
    const qb_inspect_unsupported *node = &inspection->unsupported[i];
    json_t *entry = qb_json_put(json_object(), "node", qb_json_text(node->node));
    entry = qb_json_put(entry, "op", qb_json_text(node->op));
    entry = qb_json_put(entry, "opset", json_integer(node->opset));
    array = qb_json_append(array, qb_json_put(entry, "why", qb_json_text(node->why)));
  }
  return array;
}

qb_status qb_inspection_json(const qb_inspection *inspection, char **text, qb_error *error) {
  json_t *report = qb_json_report("qbound.inspect/1");
  report = qb_json_put(report, "model", qb_json_text(inspection->path));
  report = qb_json_put(report, "sha256", qb_json_text(inspection->sha256));
  report = qb_json_put(report, "size_bytes", json_integer(inspection->size_bytes));
  report = qb_json_put(report, "opset", json_integer(inspection->opset));
  report = qb_json_put(report, "supported", json_boolean(inspection->supported));
  report = qb_json_put(report, "reason", qb_json_text(inspection->reason));
  report = qb_json_put(report, "inputs", inspected_tensors(inspection->inputs, inspection->input_count));
  report = qb_json_put(report, "outputs", inspected_tensors(inspection->outputs, inspection->output_count));
  json_t *operators = json_object();
  for (int i = 0; i < inspection->operator_count; i++)
    operators = qb_json_put(operators, inspection->operators[i].op, json_integer(inspection->operators[i].count));
  report = qb_json_put(report, "operators", operators);
  report = qb_json_put(report, "parameters", json_integer(inspection->parameters));
  report = qb_json_put(report, "macs", json_integer(inspection->macs));
  json_t *layers = json_array();
  for (int i = 0; i < inspection->layer_count; i++)
    layers = qb_json_append(layers, inspected_layer(&inspection->layers[i]));
  report = qb_json_put(report, "layers", layers);
  return qb_json_print(qb_json_put(report, "unsupported", inspected_unsupported(inspection)), text, error);
}

/* ---------------------------------------------------------------------------------------------------- quantizing */

static json_t *quantize_settings(const qb_quantize_settings *settings) {
  json_t *object = qb_json_put(json_object(), "bits", json_integer(settings->bits));
  object = qb_json_put(object, "scheme", qb_json_text(qb_scheme_name(settings->scheme)));
  object = qb_json_put(object, "granularity", qb_json_text(qb_granularity_name(settings->granularity)));
  object = qb_json_put(object, "affine", json_boolean(settings->affine));
  if (settings->unsigned_weights)
    object = qb_json_put(object, "unsigned_weights", json_true());
  object = qb_json_put(object, "grid", qb_json_text(qb_grid_choice_name(settings->grid)));
  object = qb_json_put(object, "seed", json_integer((json_int_t)settings->seed));
  if (settings->equalize != QB_EQUALIZATION_NONE)
    object = qb_json_put(object, "equalize", qb_json_text(qb_equalization_name(settings->equalize)));
  if (settings->bias_absorption)
    object = qb_json_put(object, "bias_absorption", json_true());
  if (settings->bias_correction != QB_BIAS_KEEP)
    object = qb_json_put(object, "bias_correction", qb_json_text(qb_bias_correction_name(settings->bias_correction)));
  if (settings->activation_bits == 0)
    return object;
  object = qb_json_put(object, "activation_bits", json_integer(settings->activation_bits));
  object = qb_json_put(object, "activation_range", qb_json_text(qb_range_rule_name(settings->activation_range)));
  return settings->activation_range == QB_RANGE_PERCENTILE
             ? qb_json_put(object, "activation_percentile", qb_json_real(settings->activation_percentile))
             : object;
}

static json_t *quantized_layer(const qb_quantize_layer *layer, bool compat) {
  json_t *entry = qb_json_put(json_object(), "node", qb_json_text(layer->node));
  entry = qb_json_put(entry, "bits", layer->bits > 0 ? json_integer(layer->bits) : json_string("float"));
  entry = qb_json_put(entry, "weights", json_integer(layer->weights));
  entry = qb_json_put(entry, "tied", json_boolean(layer->tied));
  entry = qb_json_put(entry, "delta", qb_json_real(layer->delta));
  entry = qb_json_put(entry, "mean_square", qb_json_real(layer->mean_square));
  entry = qb_json_put(entry, "size_before_bytes", json_integer(layer->tied ? 0 : 4 * layer->weights));
  return qb_json_put(entry, "size_after_bytes", json_integer(qb_quantize_layer_bytes(layer, compat)));
}

static json_t *preparation(const qb_preparation *p) {
  json_t *object = qb_json_put(json_object(), "dropped", json_boolean(p->dropped));
  object = qb_json_put(object, "places", json_integer(p->places));
  object = qb_json_put(object, "places_left", json_integer(p->places_left));
  object = qb_json_put(object, "channels", json_integer(p->channels));
  object = qb_json_put(object, "channels_refused", json_integer(p->channels_refused));
  object = qb_json_put(object, "clips", json_integer(p->clips));
  object = qb_json_put(object, "largest_scale", qb_json_real(p->largest_scale));
  object = qb_json_put(object, "absorb_places", json_integer(p->absorb_places));
  object = qb_json_put(object, "absorbed", json_integer(p->absorbed));
  object = qb_json_put(object, "absorb_left", json_integer(p->absorb_left));
  object = qb_json_put(object, "exact", json_boolean(p->exact));
  object = qb_json_put(object, "error_without", qb_json_real(p->error_without));
  return qb_json_put(object, "error_with", qb_json_real(p->error_with));
}

/* What was done beyond rounding, and what the guards found; absent when nothing was. */
static json_t *put_calibration(json_t *report, const qb_quantize_settings *settings, const qb_quantize_info *info) {
  if (settings->equalize != QB_EQUALIZATION_NONE || settings->bias_absorption)
    report = qb_json_put(report, "preparation", preparation(&info->preparation));
  if (settings->bias_correction != QB_BIAS_KEEP)
    report = qb_json_put(report, "biases_corrected", json_integer(info->biases_corrected));
  if (!isnan(info->error)) {
    report = qb_json_put(report, "error_nearest", qb_json_real(info->error_nearest));
    report = qb_json_put(report, "error", qb_json_real(info->error));
    report = qb_json_put(report, "kept_nearest", json_boolean(info->kept_nearest));
  }
  return info->interrupted ? qb_json_put(report, "interrupted", json_true()) : report;
}

qb_status qb_report_settings(const qb_quantize_settings *settings, char **text, qb_error *error) {
  return qb_json_print(quantize_settings(settings), text, error);
}

bool qb_report_settings_have(const char *text, const char *key, const char *value) {
  json_t *settings = json_loads(text, 0, NULL);
  json_t *found = json_object_get(settings, key);
  bool have =
      found != NULL && (value == NULL || (json_is_string(found) && strcmp(json_string_value(found), value) == 0));
  json_decref(settings);
  return have;
}

qb_status qb_report_quantize(const char *model, const qb_quantize_settings *settings, const qb_quantize_info *info,
                             const qb_allocation *allocation, const char *output, const qb_save_info *save, bool compat,
                             char **text, qb_error *error) {
  json_t *report = qb_json_report("qbound.quantize/1");
  report = qb_json_put(report, "model", qb_json_text(model));
  report = qb_json_put(report, "settings", quantize_settings(settings));
  report = qb_json_put(report, "delta", qb_json_real(info->delta));
  json_t *layers = json_array();
  for (int i = 0; i < info->layer_count; i++)
    layers = qb_json_append(layers, quantized_layer(&info->layers[i], compat));
  report = qb_json_put(report, "layers", layers);
  report = put_calibration(report, settings, info);
  if (allocation != NULL)
    report = qb_json_put(report, "allocation", qb_json_allocation(allocation));
  json_t *file = qb_json_put(json_object(), "path", qb_json_text(output));
  file = qb_json_put(file, "opset", json_integer(save->opset));
  file = qb_json_put(file, "size_bytes", json_integer(save->size_bytes));
  file = qb_json_put(file, "output_difference", qb_json_real(save->output_difference));
  file = qb_json_put(file, "float_difference", qb_json_real(save->float_difference));
  report = qb_json_put(report, "file", file);
  if (allocation != NULL)
    report = qb_json_put(report, "timing", qb_json_allocation_timing(allocation));
  return qb_json_print(report, text, error);
}

/* ------------------------------------------------------------------------------------------------------ bounding */

static json_t *bound_value(const qb_bound_value *value) {
  json_t *object =
      qb_json_put(json_object(), "log10", value->applies ? qb_json_real(value->log10) : json_string("not applicable"));
  object = qb_json_put(object, "value", qb_json_text(value->applies ? value->value : "not applicable"));
  object = qb_json_put(object, "applies", json_boolean(value->applies));
  object = qb_json_put(object, "why", qb_json_text(value->applies ? NULL : value->why));
  object = qb_json_put(object, "form", qb_json_text(value->form));
  return qb_json_put(object, "about", json_string(value->is_graph ? "network" : "chain"));
}

static json_t *bound_row(const qb_bound_row *row) {
  json_t *object = qb_json_put(json_object(), "bits", json_integer(row->bits));
  object = qb_json_put(object, "scheme", qb_json_text(qb_scheme_name(row->scheme)));
  object = qb_json_put(object, "granularity", qb_json_text(qb_granularity_name(row->granularity)));
  object = qb_json_put(object, "delta", qb_json_real(row->delta));
  object = qb_json_put(object, "output_range", qb_json_real(row->output_range));
  json_t *bounds = json_object();
  for (int i = 0; i < row->count; i++)
    bounds = qb_json_put(bounds, row->bounds[i].name, bound_value(&row->bounds[i]));
  return qb_json_put(object, "bounds", bounds);
}

static json_t *conventions(const qb_bound_conventions *used) {
  json_t *object = qb_json_put(json_object(), "bias", json_string(used->drop_bias ? "drop" : "keep"));
  object = qb_json_put(object, "batchnorm", json_string(used->drop_batch_norm ? "drop" : "fold"));
  object = qb_json_put(object, "downsample", json_string(used->drop_downsample ? "out" : "in"));
  object = qb_json_put(object, "dense", json_string(used->drop_dense ? "out" : "in"));
  return qb_json_put(object, "width", json_string(used->width_channels ? "channels" : "units"));
}

qb_status qb_bound_report_json(const qb_bound_report *report, char **text, qb_error *error) {
  json_t *object = qb_json_report("qbound.bound/1");
  object = qb_json_put(object, "model", qb_json_text(report->model));
  object = qb_json_put(object, "layers", json_integer(report->layers));
  object = qb_json_put(object, "domain", qb_json_text(report->domain));
  object = qb_json_put(object, "domain_radius", qb_json_real(report->domain_radius));
  object = qb_json_put(object, "conventions", conventions(&report->conventions));
  object = qb_json_put(object, "chain_is_network", json_boolean(report->chain_is_network));
  object = qb_json_put(object, "chain_why_not", qb_json_text(report->chain_is_network ? NULL : report->network));
  json_t *rows = json_array();
  for (int i = 0; i < report->row_count; i++)
    rows = qb_json_append(rows, bound_row(&report->rows[i]));
  object = qb_json_put(object, "rows", rows);
  json_t *timing = qb_json_put(json_object(), "seconds", qb_json_real(report->seconds));
  return qb_json_print(qb_json_put(object, "timing", timing), text, error);
}

/* ----------------------------------------------------------------------------------------------------- measuring */

static json_t *images_per_second(const qb_measure_network *network, int64_t images) {
  return qb_json_real(network->seconds > 0 ? (double)images / network->seconds : NAN);
}

static json_t *measured_other(const qb_measurement *measured) {
  json_t *error = qb_json_put(json_object(), "max", qb_json_real(measured->error_max));
  error = qb_json_put(error, "mean", qb_json_real(measured->error_mean));
  error = qb_json_put(error, "p50", qb_json_real(measured->error_p50));
  error = qb_json_put(error, "p90", qb_json_real(measured->error_p90));
  error = qb_json_put(error, "p99", qb_json_real(measured->error_p99));
  error = qb_json_put(error, "argmax", json_integer(measured->error_argmax));
  json_t *object = qb_json_put(json_object(), "model", qb_json_text(measured->other.path));
  object = qb_json_put(object, "size_bytes", json_integer(measured->other.size_bytes));
  object = qb_json_put(object, "top1", qb_json_real(measured->other.top1));
  object = qb_json_put(object, "top5", qb_json_real(measured->other.top5));
  object = qb_json_put(object, "flips", qb_json_real(measured->flips));
  object = qb_json_put(object, "flip_count", json_integer(measured->flip_count));
  return qb_json_put(object, "error", error);
}

static json_t *measured_timing(const qb_measurement *measured) {
  json_t *timing = qb_json_put(json_object(), "seconds", qb_json_real(measured->seconds));
  timing = qb_json_put(timing, "images_per_second", images_per_second(&measured->model, measured->images));
  if (measured->has_other)
    timing = qb_json_put(timing, "other_images_per_second", images_per_second(&measured->other, measured->images));
  return timing;
}

qb_status qb_measurement_json(const qb_measurement *measured, char **text, qb_error *error) {
  json_t *object = qb_json_report("qbound.measure/1");
  object = qb_json_put(object, "model", qb_json_text(measured->model.path));
  object = qb_json_put(object, "size_bytes", json_integer(measured->model.size_bytes));
  object = qb_json_put(object, "images", json_integer(measured->images));
  object = qb_json_put(object, "labelled", json_integer(measured->labelled));
  object = qb_json_put(object, "top1", qb_json_real(measured->model.top1));
  object = qb_json_put(object, "top5", qb_json_real(measured->model.top5));
  if (measured->has_other)
    object = qb_json_put(object, "other", measured_other(measured));
  return qb_json_print(qb_json_put(object, "timing", measured_timing(measured)), text, error);
}

qb_status qb_train_json(const char *path, const qb_train_settings *settings, const qb_train_info *info, char **text,
                        qb_error *error) {
  json_t *object = qb_json_report("qbound.train/1");
  object = qb_json_put(object, "model", qb_json_text(path));
  json_t *how = qb_json_put(json_object(), "layers", json_integer(settings->layers));
  how = qb_json_put(how, "width", json_integer(settings->width));
  how = qb_json_put(how, "epochs", json_integer(settings->epochs));
  how = qb_json_put(how, "batch", json_integer(settings->batch));
  how = qb_json_put(how, "rate", qb_json_real(settings->rate));
  object = qb_json_put(object, "settings", qb_json_put(how, "seed", json_integer((json_int_t)settings->seed)));
  object = qb_json_put(object, "samples", json_integer(info->samples));
  object = qb_json_put(object, "test_samples", json_integer(info->test_samples));
  object = qb_json_put(object, "parameters", json_integer(info->parameters));
  object = qb_json_put(object, "inputs", json_integer(info->inputs));
  object = qb_json_put(object, "classes", json_integer(info->classes));
  object = qb_json_put(object, "loss", qb_json_real(info->loss));
  object = qb_json_put(object, "accuracy", qb_json_real(info->accuracy));
  object = qb_json_put(object, "test_accuracy", qb_json_real(info->test_accuracy));
  json_t *timing = qb_json_put(json_object(), "seconds", qb_json_real(info->seconds));
  return qb_json_print(qb_json_put(object, "timing", timing), text, error);
}

static json_t *finding(const qb_reproduce_finding *f) {
  json_t *object = qb_json_put(json_object(), "figure", qb_json_text(f->figure));
  object = qb_json_put(object, "subject", qb_json_text(f->subject));
  object = qb_json_put(object, "paper", qb_json_text(f->paper));
  return qb_json_put(object, "measured", qb_json_text(f->measured));
}

qb_status qb_reproduction_json(const qb_reproduction *reproduction, char **text, qb_error *error) {
  json_t *findings = json_array(), *files = json_array(), *missing = json_array();
  for (int i = 0; i < reproduction->finding_count; i++)
    findings = qb_json_append(findings, finding(&reproduction->findings[i]));
  for (int i = 0; i < reproduction->file_count; i++)
    files = qb_json_append(files, qb_json_text(reproduction->files[i]));
  for (int i = 0; i < reproduction->missing_count; i++) {
    json_t *entry = qb_json_put(json_object(), "path", qb_json_text(reproduction->missing[i].path));
    missing = qb_json_append(missing, qb_json_put(entry, "how", qb_json_text(reproduction->missing[i].how)));
  }
  json_t *object = qb_json_put(qb_json_report("qbound.reproduce/1"), "findings", findings);
  object = qb_json_put(qb_json_put(object, "files", files), "missing", missing);
  json_t *timing = qb_json_put(json_object(), "seconds", qb_json_real(reproduction->seconds));
  return qb_json_print(qb_json_put(object, "timing", timing), text, error);
}
