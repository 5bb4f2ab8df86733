/* One line of progress with the time left, on stderr, for people: nothing when stderr is not a terminal. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

typedef struct progress_line {
  char stage[128];
  double started, drawn; /* seconds on the monotonic clock: of this stage, of the last drawing */
  int64_t done;
  bool visible;
} progress_line;

static progress_line line;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void draw(int64_t done, int64_t total, double elapsed) {
  fprintf(stderr, "\r\033[K%s", line.stage);
  if (total == QB_PROGRESS_SHARES)
    fprintf(stderr, " %.0f %%", 100 * (double)done / (double)total);
  else if (total > 0)
    fprintf(stderr, " %lld/%lld", (long long)done, (long long)total);
  if (100 * done >= total && done > 0 && done < total) { /* an estimate from less would mislead */
    double left = elapsed * (double)(total - done) / (double)done;
    if (left >= 90)
      fprintf(stderr, ", about %.0f min left", left / 60);
    else
      fprintf(stderr, ", about %.0f s left", left);
  }
  fflush(stderr);
  line.visible = true;
}

/* At most ten drawings a second, so that short work is not slowed down by its own progress. */
static bool report(void *context, const char *what, int64_t done, int64_t total) {
  (void)context;
  double time = now();
  if (strcmp(line.stage, what) != 0 || done < line.done) { /* another stage, or once more */
    snprintf(line.stage, sizeof line.stage, "%s", what);
    line.started = time;
  }
  line.done = done;
  if (time - line.drawn >= 0.1) {
    line.drawn = time;
    draw(done, total, time - line.started);
  }
  return true;
}

const qb_progress *cli_progress_begin(void) {
  static const qb_progress progress = {.function = report};
  line.drawn = now(); /* the first tenth of a second is silent */
  return isatty(STDERR_FILENO) ? &progress : NULL;
}

static volatile sig_atomic_t stopped;

static void note_signal(int signal_number) {
  (void)signal_number;
  stopped = 1;
}

static bool report_or_stop(void *context, const char *what, int64_t done, int64_t total) {
  if (isatty(STDERR_FILENO))
    (void)report(context, what, done, total);
  return stopped == 0;
}

const qb_progress *cli_progress_begin_stoppable(void) {
  static const qb_progress progress = {.function = report_or_stop};
  struct sigaction action = {.sa_handler = note_signal, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  line.drawn = now();
  return &progress;
}

void cli_progress_end(void) {
  if (line.visible)
    fputs("\r\033[K", stderr);
  line = (progress_line){0};
}
