/* qbound demo: the main job from beginning to end on the network that ships inside the command. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/demo_model.h"
#include "cli/table.h"

enum { IMAGES = 1000, WIDTHS = 2, PATH_SIZE = 4096 };
static const int widths[WIDTHS] = {8, 4};

typedef struct demo_arguments {
  cli_options options;
  const char *folder;
} demo_arguments;

/* Everything the demo finds out. */
typedef struct qbound_demo {
  const demo_arguments *arguments;
  char model_path[PATH_SIZE], quantized_paths[WIDTHS][PATH_SIZE];
  qb_model *model, *quantized[WIDTHS];
  qb_inspection inspection;
  qb_quantize_info infos[WIDTHS];
  qb_save_info saves[WIDTHS];
  qb_bound_report bounds;
  qb_measurement measured[WIDTHS];
} qbound_demo;

static error_t parse(int key, char *text, struct argp_state *state) {
  demo_arguments *arguments = state->input;
  switch (key) {
  case ARGP_KEY_INIT: state->child_inputs[0] = &arguments->options; return 0;
  case 'o': arguments->folder = text; return 0;
  case ARGP_KEY_ARG: argp_error(state, "the demo takes no arguments, only options; '%s' is too much", text); return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp_option demo_options[] = {
    {"output", 'o', "DIR", 0, "Where the files go (default qbound-demo)", 0},
    {0},
};

static const struct argp demo_argp = {
    .options = demo_options,
    .parser = parse,
    .args_doc = "",
    .doc = "Inspects a small network that reads digits, quantizes it to 8 and 4 bits, proves how far that can move its "
           "outputs, measures how far it does, and writes the files.\v"
           "Example:\n  qbound demo -o /tmp/demo\n\n"
           "The images are drawn with --seed (here default 2); the network was trained on those of seed 1.",
    .children = cli_common,
};

/* ------------------------------------------------------------------------------------------------------- working */

static qb_status io_failure(const char *path, const char *what, qb_error *error) {
  error->status = QB_ERROR_IO;
  snprintf(error->message, sizeof error->message, "%.900s: %s: %s", path, what, strerror(errno));
  return QB_ERROR_IO;
}

static qb_status write_model(qbound_demo *demo, qb_error *error) {
  const char *folder = demo->arguments->folder;
  if (strlen(folder) + 64 > PATH_SIZE) {
    errno = ENAMETOOLONG;
    return io_failure(folder, "cannot be used", error);
  }
  if (mkdir(folder, 0777) != 0 && errno != EEXIST)
    return io_failure(folder, "cannot be made", error);
  snprintf(demo->model_path, PATH_SIZE, "%s/digits.onnx", folder);
  for (int i = 0; i < WIDTHS; i++)
    snprintf(demo->quantized_paths[i], PATH_SIZE, "%s/digits_w%d.onnx", folder, widths[i]);
  const void *bytes;
  size_t size;
  qb_demo_model(&bytes, &size);
  FILE *file = fopen(demo->model_path, "wb");
  if (file == NULL)
    return io_failure(demo->model_path, "cannot be written", error);
  bool written = fwrite(bytes, 1, size, file) == size;
  written = fclose(file) == 0 && written;
  return written ? QB_OK : io_failure(demo->model_path, "writing failed", error);
}

static qb_status quantize(qbound_demo *demo, int i, qb_error *error) {
  qb_quantize_settings settings;
  qb_save_settings save;
  qb_quantize_settings_default(&settings);
  qb_save_settings_default(&save);
  settings.bits = widths[i];
  settings.threads = save.threads = demo->arguments->options.threads;
  qb_status status =
      qb_quantize(demo->model, &settings, cli_progress_begin(), &demo->quantized[i], &demo->infos[i], error);
  return status == QB_OK ? qb_model_save(demo->quantized[i], demo->quantized_paths[i], &save, &demo->saves[i], error)
                         : status;
}

static qb_status bound(qbound_demo *demo, qb_error *error) {
  static const qb_granularity per_channel = QB_PER_CHANNEL;
  qb_bound_settings settings;
  qb_bound_settings_default(&settings);
  settings.bits = widths;
  settings.bits_count = WIDTHS;
  settings.granularities = &per_channel;
  settings.granularity_count = 1;
  settings.preprocess = "unit";
  settings.threads = demo->arguments->options.threads;
  return qb_bound_sweep(demo->model, &settings, cli_progress_begin(), &demo->bounds, error);
}

static qb_status measure(qbound_demo *demo, int i, qb_error *error) {
  qb_data data;
  qb_measure_settings settings;
  qb_data_default(&data);
  qb_measure_settings_default(&settings);
  char images[64];
  snprintf(images, sizeof images, "digits:%d:%llu", IMAGES, (unsigned long long)demo->arguments->options.seed);
  data.path = images;
  data.preprocess = "unit";
  settings.threads = demo->arguments->options.threads;
  return qb_measure(demo->model, demo->quantized[i], &data, &settings, cli_progress_begin(), &demo->measured[i], error);
}

static qb_status work(qbound_demo *demo, qb_error *error) {
  qb_status status = write_model(demo, error);
  qb_inspect_settings inspect;
  qb_inspect_settings_default(&inspect);
  inspect.spectral = true;
  inspect.threads = demo->arguments->options.threads;
  if (status == QB_OK)
    status = qb_inspect(demo->model_path, &inspect, cli_progress_begin(), &demo->inspection, error);
  if (status == QB_OK)
    status = qb_model_load(demo->model_path, &demo->model, error);
  for (int i = 0; status == QB_OK && i < WIDTHS; i++)
    status = quantize(demo, i, error);
  if (status == QB_OK)
    status = bound(demo, error);
  for (int i = 0; status == QB_OK && i < WIDTHS; i++)
    status = measure(demo, i, error);
  cli_progress_end();
  return status;
}

/* ------------------------------------------------------------------------------------------------------ printing */

static const qb_bound_value *best_bound(const qbound_demo *demo, int i) {
  const qb_bound_row *row = &demo->bounds.rows[i];
  return &row->bounds[row->count - 1];
}

static void print_summary(const qbound_demo *demo) {
  static const char *const header[] = {"weights",    "file",          "top-1",         "classes that flip",
                                       "mean error", "largest error", "proved at most"};
  cli_table table;
  char size[CLI_TEXT], top1[CLI_TEXT], proved[CLI_BOUND_TEXT];
  cli_table_begin(&table, "lrrrrrr");
  for (size_t i = 0; i < sizeof header / sizeof *header; i++)
    cli_table_cell(&table, "%s", header[i]);
  const qb_measure_network *model = &demo->measured[0].model;
  cli_table_cell(&table, "float");
  cli_table_cell(&table, "%s", cli_bytes(demo->inspection.size_bytes, size));
  cli_table_cell(&table, "%s", cli_percent(model->top1, top1));
  for (int i = 0; i < 4; i++)
    cli_table_cell(&table, "-");
  for (int i = 0; i < WIDTHS; i++) {
    const qb_measurement *measured = &demo->measured[i];
    cli_table_cell(&table, "%d bits", widths[i]);
    cli_table_cell(&table, "%s", cli_bytes(demo->saves[i].size_bytes, size));
    cli_table_cell(&table, "%s", cli_percent(measured->other.top1, top1));
    cli_table_cell(&table, "%lld of %lld", (long long)measured->flip_count, (long long)measured->images);
    cli_table_cell(&table, "%.3g", measured->error_mean);
    cli_table_cell(&table, "%.3g", measured->error_max);
    cli_table_cell(&table, "%s", cli_bound_text(best_bound(demo, i), proved));
  }
  cli_table_end(&table);
}

static void print_verdict(const qbound_demo *demo) {
  char proved[CLI_BOUND_TEXT];
  printf("\nIn plain words\n");
  for (int i = 0; i < WIDTHS; i++) {
    const qb_measurement *measured = &demo->measured[i];
    printf("  With %d bit weights the network names another digit on %lld of %lld images, and %.2f %% of its answers "
           "are right instead of %.2f %%.\n",
           widths[i], (long long)measured->flip_count, (long long)measured->images, 100 * measured->other.top1,
           100 * measured->model.top1);
    printf("  On these images no score moved by more than %.3g; it is proved that on no image at all, seen or unseen, "
           "a score moves by more than %s.\n",
           measured->error_max, cli_bound_text(best_bound(demo, i), proved));
    if (cli_is_vacuous(&demo->bounds.rows[i]))
      printf("  That bound is vacuous: between any two images a score of the float network itself moves by at most "
             "%.4g.\n",
             demo->bounds.rows[i].output_range);
  }
  printf("\nFiles: %s, %s, %s\n", demo->model_path, demo->quantized_paths[0], demo->quantized_paths[1]);
  printf("Next: qbound bound %s --bits 2-16 --granularity channel --preprocess unit\n", demo->model_path);
}

static void print_all(const qbound_demo *demo) {
  printf("1. The network\n\n");
  cli_print_inspection(&demo->inspection);
  printf("\n2. Quantized per output channel; both files were read back and run\n\n");
  for (int i = 0; i < WIDTHS; i++) {
    char size[CLI_TEXT];
    printf("  %s: %d bit weights, %s, largest change of a weight %.4g\n", demo->quantized_paths[i], widths[i],
           cli_bytes(demo->saves[i].size_bytes, size), demo->infos[i].delta);
  }
  printf("\n3. Proved: how far an output can move, for every image\n\n");
  cli_print_bounds(&demo->bounds);
  printf("\n4. Measured on %d images that qbound drew (seed %llu)\n\n", IMAGES,
         (unsigned long long)demo->arguments->options.seed);
  print_summary(demo);
  print_verdict(demo);
}

/* One object that holds the objects of the other commands. */
static int print_json(const qbound_demo *demo) {
  qb_error error;
  char *inspect = NULL, *bounds = NULL, *quantize_texts[WIDTHS] = {0}, *measure_texts[WIDTHS] = {0};
  qb_status status = qb_inspection_json(&demo->inspection, &inspect, &error);
  if (status == QB_OK)
    status = qb_bound_report_json(&demo->bounds, &bounds, &error);
  for (int i = 0; status == QB_OK && i < WIDTHS; i++) {
    status = qb_quantize_json(demo->quantized[i], &demo->infos[i], NULL, demo->quantized_paths[i], &demo->saves[i],
                              false, &quantize_texts[i], &error);
    if (status == QB_OK)
      status = qb_measurement_json(&demo->measured[i], &measure_texts[i], &error);
  }
  if (status == QB_OK)
    printf("{\"schema\":\"qbound.demo/1\",\"inspect\":%s,\"quantize\":[%s,%s],\"bound\":%s,\"measure\":[%s,%s]}\n",
           inspect, quantize_texts[0], quantize_texts[1], bounds, measure_texts[0], measure_texts[1]);
  qb_text_free(inspect);
  qb_text_free(bounds);
  for (int i = 0; i < WIDTHS; i++) {
    qb_text_free(quantize_texts[i]);
    qb_text_free(measure_texts[i]);
  }
  return status == QB_OK ? cli_flush() : cli_fail(&error);
}

static void release(qbound_demo *demo) {
  for (int i = 0; i < WIDTHS; i++) {
    qb_measurement_free(&demo->measured[i]);
    qb_quantize_info_free(&demo->infos[i]);
    qb_model_free(demo->quantized[i]);
  }
  qb_bound_report_free(&demo->bounds);
  qb_inspection_free(&demo->inspection);
  qb_model_free(demo->model);
}

int cmd_demo(int argc, char **argv) {
  demo_arguments arguments = {.options.seed = 2, .folder = "qbound-demo"};
  argp_parse(&demo_argp, argc, argv, 0, NULL, &arguments);
  qbound_demo demo = {.arguments = &arguments};
  qb_error error;
  int code;
  if (work(&demo, &error) != QB_OK) {
    code = cli_fail(&error);
  } else if (arguments.options.json) {
    code = print_json(&demo);
  } else {
    print_all(&demo);
    code = cli_flush();
  }
  release(&demo);
  return code;
}
