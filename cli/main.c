/* qbound: the command line. Finds the subcommand and runs it. */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

typedef struct command {
  const char *name, *title; /* title: "qbound NAME", what usage messages call the program */
  int (*run)(int argc, char **argv);
  const char *does;
  bool shared; /* the ranks of mpirun divide the work; else rank 0 does it alone */
} command;

static const command commands[] = {
    {"demo", "qbound demo", cmd_demo, "the main job on a small network and images that ship inside qbound", false},
    {"inspect", "qbound inspect", cmd_inspect, "layers, shapes, sizes, norms, ranges; what is unsupported and why",
     false},
    {"bound", "qbound bound", cmd_bound, "prove how far quantization can move the output, for many bit widths", false},
    {"quantize", "qbound quantize", cmd_quantize, "write a quantized ONNX file that loads anywhere", true},
    {"measure", "qbound measure", cmd_measure, "accuracy, flips, output error and speed on real data", true},
    {"certify", "qbound certify", cmd_certify, "prove how close two networks are; write the proof to a file", true},
    {"report", "qbound report", cmd_report, "one page for people: verdict, proofs, accuracy, layers, inputs", false},
    {"check", "qbound check", cmd_check, "verify a certificate with independent code", false},
    {"reproduce", "qbound reproduce", cmd_reproduce, "the figures of the paper, and what lies beyond them", false},
    {"train-mlp", "qbound train-mlp", cmd_train_mlp, "train a small network to study, from labelled data", false},
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static void print_help(FILE *stream) {
  fputs("Usage: qbound COMMAND [ARGUMENT...]\n"
        "Quantize a trained network (ONNX) and prove how far the result can be from the original.\n\n",
        stream);
  for (int i = 0; i < COMMAND_COUNT; i++)
    fprintf(stream, "  %-9s %s\n", commands[i].name, commands[i].does);
  fputs("\n`qbound COMMAND --help` explains a command and shows an example.\n"
        "Start with `qbound demo`. `qbound --version` prints the version.\n"
        "Exit status: 0 done, 1 failed, 2 wrong usage, 3 ran, but the guarantee asked for was not reached.\n",
        stream);
}

/* Rank 0 speaks. */
static void silence(void) {
  if (freopen("/dev/null", "w", stdout) == NULL || freopen("/dev/null", "w", stderr) == NULL)
    fclose(stdout);
}

static int run_command(const command *chosen, int argc, char **argv) {
  qb_error error;
  if (qb_ranks_begin(&argc, &argv, &error) != QB_OK)
    return cli_fail(&error);
  atexit(qb_ranks_end); /* parsing may exit */
  if (qb_rank() > 0)
    silence();
  return qb_rank() == 0 || chosen->shared ? chosen->run(argc, argv) : CLI_DONE;
}

int main(int argc, char **argv) {
  setlocale(LC_CTYPE, "");
  argp_err_exit_status = CLI_USAGE;
  const char *name = argc > 1 ? argv[1] : "";
  if (strcmp(name, "--help") == 0 || strcmp(name, "-?") == 0 || strcmp(name, "help") == 0) {
    print_help(stdout);
    return cli_flush();
  }
  if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
    printf("qbound %s\n", qb_version());
    return cli_flush();
  }
  for (int i = 0; i < COMMAND_COUNT; i++)
    if (strcmp(name, commands[i].name) == 0) {
      char title[32];
      snprintf(title, sizeof title, "%s", commands[i].title);
      argv[1] = title;
      return run_command(&commands[i], argc - 1, argv + 1);
    }
  if (argc > 1)
    fprintf(stderr, "qbound: there is no command '%s'\n\n", name);
  print_help(stderr);
  return CLI_USAGE;
}
