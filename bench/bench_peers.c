/* Certified balls and boxes beside what other tools published: one CSV row per published figure.
 *
 * usage: bench_peers [SECTION..] > bench/results/peers.csv   with sections rq1 rq2 acas neurodiff cnn; all without
 * arguments. Seconds are of this machine, theirs of the publishers' machines.
 * Data: $QBOUND_DATA, else ../shared/data. Progress goes to stderr. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "bound/bisect.h"
#include "graph/pass_drop_clip.h"
#include "onnx/onnx.h"

static double acas_timeout = 2, neurodiff_timeout = 60; /* seconds a query, or $QBOUND_TIMEOUT */
static const char *neurodiff_only;                      /* $QBOUND_PROPERTY: this property alone */

static const char *data_folder(void) {
  const char *folder = getenv("QBOUND_DATA");
  return folder != NULL && folder[0] != '\0' ? folder : "../shared/data";
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void stop(const char *what, const char *why) {
  fprintf(stderr, "bench_peers: %s: %s\n", what, why);
  exit(EXIT_FAILURE);
}

/* ----------------------------------------------------------------------------------------------------------- pairs */

typedef struct loaded_pair {
  qb_onnx *document[2];
  qb_graph graph[2];
  qb_pair pair;
  qb_backward *backward;
} loaded_pair;

static void load_graph(const char *path, qb_onnx **document, qb_graph *graph) {
  qb_error error;
  char whole[1024];
  snprintf(whole, sizeof whole, "%s/peers/%s", data_folder(), path);
  if (qb_onnx_read(whole, document, &error) != QB_OK || qb_onnx_to_graph(*document, graph, &error) != QB_OK)
    stop(whole, error.message);
}

static void prepare_pair(loaded_pair *p, const char *name) {
  qb_error error;
  if (qb_pair_match_absorbed(&p->graph[0], &p->graph[1], &p->pair, &error) != QB_OK ||
      qb_backward_create(&p->pair, &p->backward, &error) != QB_OK)
    stop(name, error.message);
}

static void load_pair(const char *original, const char *quantized, loaded_pair *p) {
  memset(p, 0, sizeof *p);
  load_graph(original, &p->document[0], &p->graph[0]);
  load_graph(quantized, &p->document[1], &p->graph[1]);
  qb_drop_clips(&p->graph[1]);
  prepare_pair(p, quantized);
}

static void free_pair(loaded_pair *p) {
  qb_backward_free(p->backward);
  qb_pair_free(&p->pair);
  for (int i = 0; i < 2; i++) {
    qb_graph_free(&p->graph[i]);
    qb_onnx_free(p->document[i]);
  }
}

static void bound_ball(const loaded_pair *p, const qb_domain *domain, qb_ball *ball, double *seconds) {
  qb_error error;
  qb_ball_settings settings = qb_ball_settings_default();
  double start = now();
  if (qb_bound_ball(p->backward, domain, &settings, ball, &error) != QB_OK)
    stop("ball", error.message);
  *seconds = now() - start;
  if (!ball->applies)
    stop("ball", ball->why);
}

/* ------------------------------------------------------------------------------------------------------------- CSV */

enum { FIELDS = 40 };

/* Splits a line at commas, in place; returns the number of fields. */
static int split(char *line, char *fields[FIELDS]) {
  int count = 0;
  line[strcspn(line, "\r\n")] = '\0';
  for (char *at = line; at != NULL && count < FIELDS; count++) {
    fields[count] = at;
    at = strchr(at, ',');
    if (at != NULL)
      *at++ = '\0';
  }
  return count;
}

static FILE *open_table(const char *name, char line[4096]) {
  char path[1024];
  snprintf(path, sizeof path, "%s/peers/%s", data_folder(), name);
  FILE *file = fopen(path, "r");
  if (file == NULL || fgets(line, 4096, file) == NULL)
    stop(path, "cannot be read");
  return file;
}

/* --------------------------------------------------------------------------------------------------------- QEBVerif */

enum { IMAGES = 30, PIXELS = 784 };

static uint8_t images[IMAGES][PIXELS];

static void read_images(void) {
  char path[1024];
  snprintf(path, sizeof path, "%s/peers/qebverif/mnist30-images-idx3-ubyte", data_folder());
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 16, SEEK_SET) != 0 || fread(images, PIXELS, IMAGES, file) != IMAGES)
    stop(path, "cannot be read");
  fclose(file);
}

static void pixel_ball(const uint8_t *image, int radius, float *lo, float *hi) {
  for (int i = 0; i < PIXELS; i++) {
    int least = image[i] - radius < 0 ? 0 : image[i] - radius, most = image[i] + radius > 255 ? 255 : image[i] + radius;
    lo[i] = nextafterf((float)least / 255, -1);
    hi[i] = nextafterf((float)most / 255, 2);
    lo[i] = least == 0 ? 0 : lo[i];
  }
}

/* The interval of the target's difference for every image, and the mean time. */
static double run_images(const char *net, int bits, const int target[IMAGES], qb_interval found[IMAGES]) {
  char original[64], quantized[64];
  float lo[PIXELS], hi[PIXELS];
  qb_domain domain = {PIXELS, lo, hi};
  loaded_pair p;
  double total = 0;
  snprintf(original, sizeof original, "qebverif/%s_float.onnx", net);
  snprintf(quantized, sizeof quantized, "qebverif/%s_q%d.onnx", net, bits);
  load_pair(original, quantized, &p);
  for (int i = 0; i < IMAGES; i++) {
    qb_ball ball;
    double seconds;
    pixel_ball(images[i], 3, lo, hi);
    bound_ball(&p, &domain, &ball, &seconds);
    found[i] = ball.difference[target[i]];
    total += seconds;
    qb_ball_free(&ball);
  }
  free_pair(&p);
  return total / IMAGES;
}

static void read_targets(int target[IMAGES]) {
  char line[4096], *fields[FIELDS];
  FILE *file = open_table("qebverif/tasks.csv", line);
  while (fgets(line, sizeof line, file) != NULL)
    if (split(line, fields) >= 8 && strcmp(fields[0], "p1") == 0 && strcmp(fields[1], "4") == 0)
      target[atoi(fields[5])] = atoi(fields[7]);
  fclose(file);
}

/* Best published width and the seconds of that mode. */
static void best_published(const char *net, int bits, double *width, double *seconds) {
  char line[4096], *fields[FIELDS];
  FILE *file = open_table("qebverif/published_rq1.csv", line);
  *width = INFINITY;
  while (fgets(line, sizeof line, file) != NULL)
    if (split(line, fields) >= 8 && strcmp(fields[0], net) == 0 && atoi(fields[2]) == bits &&
        atof(fields[5]) < *width) {
      *width = atof(fields[5]);
      *seconds = atof(fields[7]);
    }
  fclose(file);
}

static qb_interval qebverif[4][4][IMAGES];
static double qebverif_seconds[4][4];

static void run_qebverif(void) {
  static bool done = false;
  int target[IMAGES] = {0};
  if (done)
    return;
  done = true;
  read_images();
  read_targets(target);
  for (int n = 0; n < 4; n++)
    for (int q = 0; q < 4; q++) {
      char net[8];
      snprintf(net, sizeof net, "p%d", n + 1);
      qebverif_seconds[n][q] = run_images(net, 4 + 2 * q, target, qebverif[n][q]);
    }
}

static void print_row(const char *table, const char *row, const char *quantity, double ours, double ours_seconds,
                      double theirs, double theirs_seconds, bool won, const char *note) {
  printf("%s,%s,%s,%.6g,%.4g,%.6g,%.4g,%s,%s\n", table, row, quantity, ours, ours_seconds, theirs, theirs_seconds,
         won ? "won" : "lost", note);
  fflush(stdout);
}

static void section_rq1(void) {
  run_qebverif();
  for (int n = 0; n < 4; n++)
    for (int q = 0; q < 4; q++) {
      char net[8], row[32];
      double width = 0, theirs, seconds = 0;
      snprintf(net, sizeof net, "p%d", n + 1);
      snprintf(row, sizeof row, "%s q%d", net, 4 + 2 * q);
      for (int i = 0; i < IMAGES; i++)
        width += (qebverif[n][q][i].hi - qebverif[n][q][i].lo) / IMAGES;
      best_published(net, 4 + 2 * q, &theirs, &seconds);
      print_row("qebverif-rq1", row, "mean width of the target", width, qebverif_seconds[n][q], theirs, seconds,
                width < theirs && qebverif_seconds[n][q] < 0.1 * seconds, width < theirs ? "" : "wider");
    }
}

/* ------------------------------------------------------------------------------------------------- QEBVerif, counts */

/* Published: proved by their difference analysis, and decided by anything of theirs. */
static void section_rq2(void) {
  char line[4096], *fields[FIELDS];
  int ours = 0, dra = 0, decided = 0, tasks = 0;
  double slowest = 0;
  run_qebverif();
  FILE *file = open_table("qebverif/published_rq2.csv", line);
  while (fgets(line, sizeof line, file) != NULL) {
    if (split(line, fields) < 17)
      continue;
    int n = fields[0][1] - '1', q = (atoi(fields[2]) - 4) / 2, proved = 0;
    double limit = atof(fields[3]);
    char row[32];
    for (int i = 0; i < IMAGES; i++)
      proved += qb_interval_magnitude(qebverif[n][q][i]) <= limit;
    snprintf(row, sizeof row, "%s q%s error %s", fields[0], fields[2], fields[3]);
    print_row("qebverif-rq2", row, "tasks proved of 30", proved, qebverif_seconds[n][q], atof(fields[5]), NAN,
              proved >= atoi(fields[5]), "theirs: difference analysis");
    slowest = fmax(slowest, qebverif_seconds[n][q]);
    ours += proved;
    dra += atoi(fields[5]);
    decided += atoi(fields[14]) + atoi(fields[15]);
    tasks += IMAGES;
  }
  fclose(file);
  char note[128];
  snprintf(note, sizeof note, "of %d; with MILP up to an hour a task they decide %d", tasks, decided);
  print_row("qebverif-rq2", "all", "tasks proved", ours, slowest, dra, NAN, ours > dra, note);
}

/* ------------------------------------------------------------------------------------------------------------- ACAS */

static qb_bisection prove(const loaded_pair *p, const float *lo, const float *hi, int64_t output, double limit,
                          double timeout, double *seconds) {
  qb_error error;
  qb_bisection result;
  qb_domain domain = {5, (float *)lo, (float *)hi};
  qb_ball_claim claim = {output, limit};
  qb_bisection_settings settings = qb_bisection_settings_default();
  settings.timeout_seconds = timeout;
  settings.most_boxes = getenv("QBOUND_BOXES") == NULL ? 0 : atoll(getenv("QBOUND_BOXES"));
  double start = now();
  if (qb_ball_bisect(&p->pair, &domain, &claim, &settings, &result, &error) != QB_OK)
    stop("bisection", error.message);
  *seconds = now() - start;
  return result;
}

/* 5 points x 4 Q x radius .01, .025, .05 for each error. */
static void section_acas(void) {
  static const double limits[5] = {0.05, 0.1, 0.2, 0.3, 0.4};
  static const int theirs[5] = {18, 22, 24, 26, 27};
  int proved[5] = {0}, total = 0;
  double spent[5] = {0}, sum = 0;
  for (int q = 4; q <= 10; q += 2) {
    char line[4096], *fields[FIELDS], name[64];
    loaded_pair p;
    snprintf(name, sizeof name, "acas/qebverif/acas_1_1_q%d.onnx", q);
    load_pair("acas/qebverif/acas_1_1_float.onnx", name, &p);
    FILE *file = open_table("acas/qebverif_boxes.csv", line);
    while (fgets(line, sizeof line, file) != NULL) {
      float lo[5], hi[5];
      if (split(line, fields) < 28 || atof(fields[1]) > 0.051)
        continue;
      for (int i = 0; i < 5; i++) { /* int/255 for both networks: covers the clipped ends of their task */
        lo[i] = nextafterf((float)(atof(fields[8 + i]) / 255), -1);
        hi[i] = nextafterf((float)(atof(fields[13 + i]) / 255), 1);
      }
      for (int k = 0; k < 5; k++) {
        double seconds;
        proved[k] += prove(&p, lo, hi, atoi(fields[2]), limits[k], acas_timeout, &seconds).proved;
        spent[k] += seconds;
      }
    }
    fclose(file);
    free_pair(&p);
    fprintf(stderr, "acas q%d done\n", q);
  }
  for (int k = 0; k < 5; k++) {
    char row[32];
    snprintf(row, sizeof row, "error %g", limits[k]);
    print_row("qebverif-acas", row, "tasks proved of 60", proved[k], spent[k] / 60, theirs[k], NAN,
              proved[k] > theirs[k], "seconds a task");
    total += proved[k];
    sum += spent[k];
  }
  print_row("qebverif-acas", "all", "tasks proved of 300", total, sum / 300, 117, NAN, total > 200,
            "goal: more than 200");
}

/* Seconds and number of proved queries of one row of the published table. */
static bool published_neurodiff(const char *property, double limit, int *proved, double *seconds) {
  char line[4096], *fields[FIELDS];
  bool found = false;
  FILE *file = open_table("acas/published_neurodiff.csv", line);
  while (fgets(line, sizeof line, file) != NULL)
    if (split(line, fields) >= 6 && atof(fields[0]) == limit && strcmp(fields[1], property) == 0 &&
        strcmp(fields[2], "neurodiff") == 0) {
      *proved = atoi(fields[3]);
      *seconds = atof(fields[5]);
      found = true;
    }
  fclose(file);
  return found;
}

/* All networks of one property with both limits. */
static void neurodiff_property(char *fields[FIELDS], double limit, double timeout) {
  int proved = 0, queries = 0, theirs = 0;
  double spent = 0, seconds = 0, published = NAN;
  char *rest = NULL, nets[1024], row[64], note[160];
  float lo[5], hi[5];
  for (int i = 0; i < 5; i++) {
    lo[i] = strtof(fields[4 + i], NULL);
    hi[i] = strtof(fields[9 + i], NULL);
  }
  snprintf(nets, sizeof nets, "%s", fields[24]);
  for (char *net = strtok_r(nets, " ", &rest); net != NULL; net = strtok_r(NULL, " ", &rest)) {
    char original[64], quantized[64];
    loaded_pair p;
    snprintf(original, sizeof original, "acas/float/acasxu_%s.onnx", net);
    snprintf(quantized, sizeof quantized, "acas/neurodiff16/acasxu_%s.onnx", net);
    load_pair(original, quantized, &p);
    qb_bisection b = prove(&p, lo, hi, atoi(fields[2]), limit, timeout, &seconds);
    proved += b.proved;
    fprintf(stderr, "%s %s %g: %s, %lld boxes in %.2f s, range [%g, %g]\n", fields[0], net, limit,
            b.proved ? "proved" : "open", (long long)b.boxes, seconds, b.range.lo, b.range.hi);
    spent += seconds;
    queries++;
    free_pair(&p);
  }
  if (!published_neurodiff(fields[0], limit, &theirs, &published))
    return;
  snprintf(row, sizeof row, "%s eps %g: %d queries", fields[0], limit, queries);
  snprintf(note, sizeof note, "they: %d proved on 12 threads; ours on this machine, at most %g s a query", theirs,
           timeout);
  print_row("neurodiff", row, "queries proved", proved, spent, theirs, published,
            proved > theirs || (proved == theirs && proved > 0 && spent < published), note);
}

static void section_neurodiff(void) {
  char line[4096], *fields[FIELDS];
  FILE *file = open_table("acas/boxes.csv", line);
  while (fgets(line, sizeof line, file) != NULL) {
    if (split(line, fields) < 25)
      continue;
    for (int k = 0; k < 2; k++)
      if (neurodiff_only == NULL || strcmp(neurodiff_only, fields[0]) == 0)
        neurodiff_property(fields, k == 0 ? 0.05 : 0.01, neurodiff_timeout);
  }
  fclose(file);
}

/* -------------------------------------------------------------------------------------------------- convolutions */

/* Weights on a symmetric grid of `bits` bits, one scale per tensor or per output channel. */
static void quantize_weights(qb_graph *graph, int bits, bool by_channel) {
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    qb_linear linear;
    if (!qb_graph_linear(graph, n, &linear))
      continue;
    size_t count = qb_shape_elements(&graph->values[linear.weight].shape);
    const float *from = qb_view_f32(&graph->values[linear.weight].constant);
    float *to = qb_graph_replace_constant(graph, linear.weight);
    size_t rows = by_channel ? (size_t)linear.out_channels : 1, length = count / rows;
    if (to == NULL)
      stop("weights", "no memory");
    for (size_t r = 0; r < rows; r++) {
      float top = 0, levels = (float)((1 << (bits - 1)) - 1);
      for (size_t i = r * length; i < (r + 1) * length; i++)
        top = fmaxf(top, fabsf(from[i]));
      float step = top / levels;
      for (size_t i = r * length; i < (r + 1) * length; i++)
        to[i] = step == 0 ? 0 : step * rintf(from[i] / step);
    }
  }
}

typedef struct cnn_row {
  const char *net, *file;
  bool by_channel;
  int images;
  double pixels, prototype, seconds; /* radius times 255; the numpy prototype's figures */
  float mean[3], std[3];
} cnn_row;

/* Image `index` of the CIFAR-10 test records as a box of radius pixels/255 after normalisation. */
static void cifar_ball(const cnn_row *row, int index, float *lo, float *hi) {
  uint8_t record[3073];
  char path[1024];
  snprintf(path, sizeof path, "%s/cifar10/test_1000.bin", data_folder());
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 3073L * index, SEEK_SET) != 0 || fread(record, 1, 3073, file) != 3073)
    stop(path, "cannot be read");
  fclose(file);
  for (int i = 0; i < 3072; i++) {
    double p = record[1 + i], m = (double)row->mean[i / 1024], s = (double)row->std[i / 1024];
    lo[i] = nextafterf((float)((fmax(p - row->pixels, 0) / 255 - m) / s), -10);
    hi[i] = nextafterf((float)((fmin(p + row->pixels, 255) / 255 - m) / s), 10);
  }
}

static void run_cnn(const cnn_row *row) {
  static float lo[3072], hi[3072];
  qb_domain domain = {3072, lo, hi};
  qb_error error;
  loaded_pair p = {0};
  double sum = 0, spent = 0;
  char text[96], note[96];
  load_graph(row->file, &p.document[0], &p.graph[0]);
  if (qb_graph_clone(&p.graph[0], &p.graph[1], &error) != QB_OK)
    stop(row->file, error.message);
  quantize_weights(&p.graph[1], 8, row->by_channel);
  prepare_pair(&p, row->net);
  for (int image = 0; image < row->images; image++) {
    qb_ball ball;
    double seconds, largest = 0;
    cifar_ball(row, image, lo, hi);
    bound_ball(&p, &domain, &ball, &seconds);
    for (int64_t i = 0; i < ball.count; i++)
      largest = fmax(largest, qb_interval_magnitude(ball.difference[i]));
    fprintf(stderr, "%s image %d: %g in %.2f s\n", row->net, image, largest, seconds);
    sum += largest / row->images;
    spent += seconds / row->images;
    qb_ball_free(&ball);
  }
  free_pair(&p);
  snprintf(text, sizeof text, "%s W8 per %s %g/255", row->net, row->by_channel ? "channel" : "tensor", row->pixels);
  snprintf(note, sizeof note, "mean of %d images; theirs: numpy prototype without rounding", row->images);
  print_row("cnn-balls", text, "largest output difference", sum, spent, row->prototype, row->seconds,
            sum <= row->prototype * 1.0005, note);
}

#define KW_MEAN \
  {0.485F, 0.456F, 0.406F}, { 0.225F, 0.225F, 0.225F }
#define RESNET_MEAN \
  {0.4914F, 0.4822F, 0.4465F}, { 0.2471F, 0.2435F, 0.2616F }

static void section_cnn(void) {
  static const cnn_row rows[] = {
      {"cifar_base_kw", "vnncomp/cifar_base_kw.onnx", false, 10, 1, 0.076, 1.5, KW_MEAN},
      {"cifar_base_kw", "vnncomp/cifar_base_kw.onnx", false, 10, 8, 0.725, 1.4, KW_MEAN},
      {"cifar_deep_kw", "vnncomp/cifar_deep_kw.onnx", false, 5, 1, 0.099, 7.2, KW_MEAN},
      {"resnet_2b", "vnncomp/resnet_2b.onnx", false, 5, 1, 0.308, 7.5, RESNET_MEAN},
      {"resnet_2b", "vnncomp/resnet_2b.onnx", true, 3, 1, 0.161, NAN, RESNET_MEAN},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    run_cnn(&rows[i]);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*run)(void);
  } sections[] = {{"rq1", section_rq1},
                  {"rq2", section_rq2},
                  {"acas", section_acas},
                  {"neurodiff", section_neurodiff},
                  {"cnn", section_cnn}};
  if (getenv("QBOUND_TIMEOUT") != NULL)
    acas_timeout = neurodiff_timeout = atof(getenv("QBOUND_TIMEOUT"));
  neurodiff_only = getenv("QBOUND_PROPERTY");
  if (getenv("QBOUND_NO_HEADER") == NULL)
    printf("table,row,quantity,ours,our_seconds,theirs,their_seconds,verdict,note\n");
  for (size_t s = 0; s < sizeof sections / sizeof sections[0]; s++) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; i++)
      wanted = wanted || strcmp(argv[i], sections[s].name) == 0;
    if (wanted)
      sections[s].run();
  }
  return EXIT_SUCCESS;
}
