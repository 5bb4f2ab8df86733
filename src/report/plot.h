/* Pictures: panels with axes, curves and a legend, drawn from one struct as SVG and as PNG.
 *
 * Both come from the same drawing calls (plot_canvas.h). In SVG text stays text; the PNG needs no font of the system
 * (plot_font.c), so that equal figures give equal bytes everywhere.
 *
 * Numbers beyond double fit: a logarithmic axis takes log10 of the quantity. Text may hold ^{..} and _{..}, raised and
 * lowered parts. Colours are told apart by people who see red and green alike, and every curve has its own marker. */
#ifndef QB_REPORT_PLOT_H
#define QB_REPORT_PLOT_H

#include <qbound/qbound.h>
#include <stdio.h>

typedef struct qb_plot_axis {
  const char *title;        /* with the unit: "weight bits", "size (MB)" */
  bool log;                 /* coordinates are log10 of the quantity; decades are labelled as powers of ten */
  double lo, hi;            /* the range shown; lo = hi: from the data */
  const char *const *names; /* (name_count) labels of the coordinates 0, 1, .. instead of numbers; default NULL */
  int name_count;
} qb_plot_axis;

typedef struct qb_plot_series {
  const char *name;    /* in the legend; NULL: left out of it */
  const double *x, *y; /* (count) a NAN interrupts the curve, an infinite one too */
  int count;
  int colour;      /* index into the palette (0..QB_PLOT_COLOURS-1), and the marker's shape */
  bool line;       /* connect the points */
  bool dashed;     /* the line; the marker is then hollow */
  bool no_markers; /* the line alone */
} qb_plot_series;

enum { QB_PLOT_COLOURS = 8, QB_PLOT_SERIES_LIMIT = 24 };

typedef struct qb_plot {
  const char *title; /* of the panel; may be NULL */
  qb_plot_axis x, y;
  int series_count;
  const qb_plot_series *series;
} qb_plot;

/* Panels in rows of `columns`, one legend for all: series of equal name look alike in every panel. */
typedef struct qb_figure {
  const char *title;    /* may be NULL */
  const char *subtitle; /* may be NULL */
  int columns;          /* at least 1 */
  int panel_count;
  const qb_plot *panels;
  int panel_width, panel_height; /* pixels; 0: 440 by 320 */
} qb_figure;

/* Writes a complete SVG document with a light background. `embedded`: an element for a page instead, without
 * background and XML header; its classes qb-ink (text), qb-line (axes) and qb-grid take the page's colours.
 * QB_ERROR_ARGUMENT for a figure without panels or with too many series, QB_ERROR_IO when the stream fails. */
QB_MUST_CHECK qb_status qb_plot_svg(const qb_figure *figure, bool embedded, FILE *stream, qb_error *error);

/* The same picture as PNG with `scale` (1..8) times as many pixels each way. Also QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_plot_png(const qb_figure *figure, int scale, FILE *stream, qb_error *error);

enum { QB_PLOT_TICK_LIMIT = 16 };

/* Ticks of an axis: at most QB_PLOT_TICK_LIMIT, on round numbers (1, 2 or 5 times a power of ten; on logarithmic axes
 * every k-th decade) within [lo, hi], about `wanted` of them. Returns their number and the step. */
int qb_plot_ticks(double lo, double hi, bool log, int wanted, double ticks[QB_PLOT_TICK_LIMIT], double *step);

enum { QB_PLOT_LABEL = 32 };

/* The label of a tick: "0.25" with as many digits as `step` needs, "10^{37}" for 37 on a logarithmic axis. */
void qb_plot_label(double tick, double step, bool log, char text[QB_PLOT_LABEL]);

#endif
