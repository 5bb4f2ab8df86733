/* Building a figure point by point; equal names get equal looks in every panel. */
#ifndef QB_REPRODUCE_DRAWING_H
#define QB_REPRODUCE_DRAWING_H

#include "report/plot.h"

enum { QB_DRAWING_PANELS = 16, QB_DRAWING_SERIES = 16, QB_DRAWING_POINTS = 160, QB_DRAWING_NAME = 64 };

/* How a series looks. */
typedef enum qb_look { QB_LOOK_LINE, QB_LOOK_DASHED, QB_LOOK_POINTS, QB_LOOK_PLAIN_LINE } qb_look;

typedef struct qb_drawing {
  int colour;       /* of the next new series; -1 (default): that of its name in any panel, else a new one */
  qb_figure figure; /* title, subtitle, columns and sizes are the caller's */
  qb_plot panels[QB_DRAWING_PANELS];
  qb_plot_series series[QB_DRAWING_PANELS][QB_DRAWING_SERIES];
  char names[QB_DRAWING_PANELS][QB_DRAWING_SERIES][QB_DRAWING_NAME];
  char titles[QB_DRAWING_PANELS][QB_DRAWING_NAME];
  double points[QB_DRAWING_PANELS][QB_DRAWING_SERIES][2][QB_DRAWING_POINTS];
} qb_drawing;

/* NULL when memory is short; release with qb_drawing_free. */
qb_drawing *qb_drawing_create(const char *title, const char *subtitle, int columns);
void qb_drawing_free(qb_drawing *drawing);

/* A new panel, the current one from now on; the title is copied. */
void qb_drawing_panel(qb_drawing *drawing, const char *title, qb_plot_axis x, qb_plot_axis y);

/* Appends a point to a series of the current panel; numbers that are not finite interrupt the curve. */
void qb_drawing_point(qb_drawing *drawing, const char *name, qb_look look, double x, double y);

/* Writes both files. */
QB_MUST_CHECK qb_status qb_drawing_save(const qb_drawing *drawing, const char *svg, const char *png, qb_error *error);

/* True when there is something to look at. */
bool qb_drawing_has_points(const qb_drawing *drawing);

#endif
