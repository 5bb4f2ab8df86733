/* The options that say on which inputs a command runs: `measure` and `report`. */
#include <limits.h>

#include "cli/cli.h"

enum { KEY_DATA = 0x200, KEY_LABELS, KEY_PREPROCESS, KEY_SAMPLES, KEY_SKIP, KEY_OFFSET };

static const struct argp_option options[] = {
    {"data", KEY_DATA, "DATA", 0,
     "A folder of JPEG or PNG images with labels.txt or a subfolder per class, .npy, MNIST idx (also .gz), CIFAR-10 "
     ".bin, or digits[:COUNT[:SEED]]: images that qbound draws (default 10000 of seed 2)",
     0},
    {"labels", KEY_LABELS, "FILE", 0, "Labels, where they are not found beside the data", 0},
    {"preprocess", KEY_PREPROCESS, "HOW", 0,
     "How pixels become inputs: imagenet, imagenet-224, imagenet-norm, unit, raw (default), or key=value:key=value", 0},
    {"samples", KEY_SAMPLES, "N", 0, "Use the first N (default: all)", 0},
    {"skip", KEY_SKIP, "N", 0, "Leave out the first N", 0},
    {"label-offset", KEY_OFFSET, "N", 0, "Class of the network = label + N (1 where class 0 is the background)", 0},
    {0},
};

static error_t parse(int key, char *text, struct argp_state *state) {
  qb_data *data = state->input;
  switch (key) {
  case KEY_DATA: data->path = text; return 0;
  case KEY_LABELS: data->labels = text; return 0;
  case KEY_PREPROCESS: data->preprocess = text; return 0;
  case KEY_SAMPLES: data->samples = cli_parse_integer(state, "--samples", text, 1, LLONG_MAX); return 0;
  case KEY_SKIP: data->skip = cli_parse_integer(state, "--skip", text, 0, LLONG_MAX); return 0;
  case KEY_OFFSET: data->label_offset = (int)cli_parse_integer(state, "--label-offset", text, -1000, 1000); return 0;
  case ARGP_KEY_END:
    if (data->path == NULL)
      argp_error(state, "on which data? Say --data DATA");
    return 0;
  default: return ARGP_ERR_UNKNOWN;
  }
}

const struct argp cli_data_argp = {.options = options, .parser = parse};
