/* Round numbers along an axis and how they are written. */
#include <math.h>
#include <stdio.h>

#include "report/plot.h"

/* 1, 2 or 5 times a power of ten, at least `raw`. */
static double round_step(double raw) {
  double power = pow(10, floor(log10(raw)));
  double share = raw / power;
  return power * (share <= 1.0000001 ? 1 : share <= 2.0000001 ? 2 : share <= 5.0000001 ? 5 : 10);
}

int qb_plot_ticks(double lo, double hi, bool log, int wanted, double ticks[QB_PLOT_TICK_LIMIT], double *step) {
  *step = 1;
  if (!(hi > lo) || !isfinite(hi - lo) || wanted < 1)
    return 0;
  *step = round_step((hi - lo) / wanted);
  if (log && *step < 1)
    *step = 1; /* between decades there is no round number to name */
  while ((hi - lo) / *step > QB_PLOT_TICK_LIMIT - 1)
    *step *= 2;
  int count = 0;
  for (double k = ceil(lo / *step - 1e-9); k * *step <= hi + 1e-9 * *step && count < QB_PLOT_TICK_LIMIT; k++)
    ticks[count++] = k * *step + 0.0; /* no negative zero */
  return count;
}

void qb_plot_label(double tick, double step, bool log, char text[QB_PLOT_LABEL]) {
  if (log) {
    if (tick == 0)
      snprintf(text, QB_PLOT_LABEL, "1");
    else if (tick == 1)
      snprintf(text, QB_PLOT_LABEL, "10");
    else
      snprintf(text, QB_PLOT_LABEL, "10^{%.0f}", tick);
    return;
  }
  double size = fmax(fabs(tick), fabs(step));
  int digits = (int)fmax(0, -floor(log10(step) + 1e-9));
  if (size >= 1e7 || digits > 6)
    snprintf(text, QB_PLOT_LABEL, "%.4g", tick);
  else
    snprintf(text, QB_PLOT_LABEL, "%.*f", digits, tick);
}
