/* A figure built point by point. */
#include "reproduce/drawing.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"

qb_drawing *qb_drawing_create(const char *title, const char *subtitle, int columns) {
  qb_drawing *drawing = qb_alloc(1, sizeof *drawing);
  if (drawing == NULL)
    return NULL;
  drawing->colour = -1;
  drawing->figure = (qb_figure){.title = title, .subtitle = subtitle, .columns = columns, .panels = drawing->panels};
  return drawing;
}

void qb_drawing_free(qb_drawing *drawing) { qb_free(drawing); }

void qb_drawing_panel(qb_drawing *drawing, const char *title, qb_plot_axis x, qb_plot_axis y) {
  assert(drawing->figure.panel_count < QB_DRAWING_PANELS);
  int p = drawing->figure.panel_count++;
  snprintf(drawing->titles[p], QB_DRAWING_NAME, "%s", title);
  drawing->panels[p] = (qb_plot){.title = drawing->titles[p], .x = x, .y = y, .series = drawing->series[p]};
}

/* The colour of that name in any panel, else the next one that no name has. */
static int colour_of(const qb_drawing *drawing, const char *name) {
  int next = 0;
  for (int p = 0; p < drawing->figure.panel_count; p++)
    for (int s = 0; s < drawing->panels[p].series_count; s++) {
      const qb_plot_series *series = &drawing->series[p][s];
      if (strcmp(series->name, name) == 0)
        return series->colour;
      if (series->colour >= next)
        next = series->colour + 1;
    }
  return next;
}

static qb_plot_series *find_series(qb_drawing *drawing, const char *name, qb_look look) {
  int p = drawing->figure.panel_count - 1;
  qb_plot *panel = &drawing->panels[p];
  for (int s = 0; s < panel->series_count; s++)
    if (strcmp(drawing->series[p][s].name, name) == 0)
      return &drawing->series[p][s];
  assert(panel->series_count < QB_DRAWING_SERIES);
  int colour = drawing->colour >= 0 ? drawing->colour : colour_of(drawing, name), s = panel->series_count++;
  snprintf(drawing->names[p][s], QB_DRAWING_NAME, "%s", name);
  drawing->series[p][s] = (qb_plot_series){.name = drawing->names[p][s],
                                           .x = drawing->points[p][s][0],
                                           .y = drawing->points[p][s][1],
                                           .colour = colour,
                                           .line = look != QB_LOOK_POINTS,
                                           .dashed = look == QB_LOOK_DASHED,
                                           .no_markers = look == QB_LOOK_PLAIN_LINE};
  return &drawing->series[p][s];
}

void qb_drawing_point(qb_drawing *drawing, const char *name, qb_look look, double x, double y) {
  qb_plot_series *series = find_series(drawing, name, look);
  int p = drawing->figure.panel_count - 1, s = (int)(series - drawing->series[p]);
  assert(series->count < QB_DRAWING_POINTS);
  drawing->points[p][s][0][series->count] = x;
  drawing->points[p][s][1][series->count++] = y;
}

bool qb_drawing_has_points(const qb_drawing *drawing) {
  for (int p = 0; p < drawing->figure.panel_count; p++)
    if (drawing->panels[p].series_count > 0)
      return true;
  return false;
}

static qb_status save(const qb_drawing *drawing, const char *path, bool svg, qb_error *error) {
  enum { SCALE = 2 };
  qb_output_file file = {0};
  QB_TRY(qb_output_open(&file, path, error));
  qb_status status = svg ? qb_plot_svg(&drawing->figure, false, file.stream, error)
                         : qb_plot_png(&drawing->figure, SCALE, file.stream, error);
  if (status == QB_OK)
    return qb_output_commit(&file, error);
  qb_output_discard(&file);
  return qb_fail_context(error, status, "%s", path);
}

qb_status qb_drawing_save(const qb_drawing *drawing, const char *svg, const char *png, qb_error *error) {
  QB_TRY(save(drawing, svg, true, error));
  return save(drawing, png, false, error);
}
