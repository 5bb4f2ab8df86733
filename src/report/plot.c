/* Laying a figure out: title, subtitle, one legend for all panels, then the panels in rows. Everything has its own
 * strip, so that nothing overlaps whatever the data. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "report/plot_canvas.h"

enum {
  PANEL_WIDTH = 440,
  PANEL_HEIGHT = 320,
  MARGIN = 16,
  TITLE_SIZE = 17,
  SUBTITLE_SIZE = 13,
  TEXT_SIZE = 12,
  LEGEND_ROW = 20,
  LEGEND_SAMPLE = 28,
  LEGEND_GAP = 20,
  LEFT = 66, /* of the plot area within its panel */
  RIGHT = 14,
  TOP = 28,
  BOTTOM = 48,
  TICK_SPACING_ACROSS = 44,
  TICK_SPACING_DOWN = 32
};

void qb_paint_rgb(int paint, int rgb[3]) {
  /* The palette of Okabe and Ito, its yellow darkened for a light background. */
  static const unsigned colours[QB_PAINT_SERIES + QB_PLOT_COLOURS] = {0x1f2328, 0x57606a, 0xe3e6ea, 0xffffff,
                                                                      0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7,
                                                                      0x56b4e9, 0xe69f00, 0x6e7781, 0x8c6d00};
  for (int i = 0; i < 3; i++)
    rgb[i] = (int)(colours[paint] >> (16 - 8 * i) & 255);
}

/* ------------------------------------------------------------------------------------------------------------ text */

const char *qb_text_piece(const char *text, const char **start, int *length, int *level) {
  if (*text == '\0')
    return NULL;
  *level = 0;
  const char *end = NULL;
  if ((text[0] == '^' || text[0] == '_') && text[1] == '{')
    end = strchr(text, '}');
  if (end != NULL) {
    *level = text[0] == '^' ? 1 : -1;
    *start = text + 2;
    *length = (int)(end - *start);
    return end + 1;
  }
  *start = text++;
  while (*text != '\0' && !((*text == '^' || *text == '_') && text[1] == '{'))
    text++;
  *length = (int)(text - *start);
  return text;
}

double qb_text_width(const char *text, double size) {
  const char *start;
  int length, level;
  double width = 0, advance;
  while ((text = qb_text_piece(text, &start, &length, &level)) != NULL)
    for (int i = 0; i < length; i++) {
      if (((unsigned char)start[i] & 0xc0) == 0x80)
        continue; /* a character of UTF-8 counts once */
      qb_font_glyph((unsigned char)start[i], &advance);
      width += advance * qb_font_unit * size * (level == 0 ? 1 : QB_TEXT_SMALL_PERCENT / 100.0);
    }
  return width;
}

static void put_text(qb_canvas *canvas, double x, double y, double size, qb_anchor anchor, const char *string) {
  canvas->text(canvas, &(qb_text){.x = x, .y = y, .size = size, .anchor = anchor, .string = string});
}

/* ---------------------------------------------------------------------------------------------------------- legend */

/* The i-th different name of all panels, its series in `*series`; false when there are fewer. */
static bool legend_entry(const qb_figure *figure, int index, const qb_plot_series **series) {
  int seen = 0;
  for (int p = 0; p < figure->panel_count; p++)
    for (int s = 0; s < figure->panels[p].series_count; s++) {
      const qb_plot_series *candidate = &figure->panels[p].series[s];
      bool first = candidate->name != NULL;
      for (int q = 0; q <= p && first; q++)
        for (int t = 0; t < (q < p ? figure->panels[q].series_count : s) && first; t++)
          first = figure->panels[q].series[t].name == NULL ||
                  strcmp(figure->panels[q].series[t].name, candidate->name) != 0;
      if (first && seen++ == index) {
        *series = candidate;
        return true;
      }
    }
  return false;
}

enum { CORNERS = 24 }; /* of a circle */

static void draw_marker(qb_canvas *canvas, double x, double y, const qb_plot_series *series) {
  static const double pi = 3.14159265358979323846;
  /* Circle, square, triangle, diamond, triangle on its tip, pentagon, hexagon, cross-like square on its tip */
  static const struct {
    int corners;
    double radius, turn; /* turn: of the first corner, in half turns from the right, clockwise */
  } shapes[QB_PLOT_COLOURS] = {{CORNERS, 3.6, 0}, {4, 4.6, 0.25}, {3, 4.9, -0.5}, {4, 4.9, 0},
                               {3, 4.9, 0.5},     {5, 4.5, -0.5}, {6, 4.3, 0},    {8, 4.1, 0.125}};
  double points[2 * CORNERS];
  int shape = series->colour % QB_PLOT_COLOURS, corners = shapes[shape].corners;
  for (int c = 0; c < corners; c++) {
    double angle = pi * (shapes[shape].turn + 2.0 * c / corners);
    points[2 * c] = x + shapes[shape].radius * cos(angle);
    points[2 * c + 1] = y + shapes[shape].radius * sin(angle);
  }
  canvas->polygon(canvas, points, corners, QB_PAINT_SERIES + shape, series->dashed);
}

static double legend_width(const qb_plot_series *series) {
  return LEGEND_SAMPLE + 6 + qb_text_width(series->name, TEXT_SIZE) + LEGEND_GAP;
}

static double figure_width(const qb_figure *figure) {
  int columns = figure->columns < figure->panel_count ? figure->columns : figure->panel_count;
  return 2 * MARGIN + columns * (double)(figure->panel_width > 0 ? figure->panel_width : PANEL_WIDTH);
}

static void draw_legend_entry(qb_canvas *canvas, double x, double y, const qb_plot_series *series) {
  const double line[4] = {x, y - 4, x + LEGEND_SAMPLE, y - 4};
  if (series->line)
    canvas->line(canvas, line, 2, QB_PAINT_SERIES + series->colour % QB_PLOT_COLOURS, 2, series->dashed);
  if (!series->no_markers)
    draw_marker(canvas, x + LEGEND_SAMPLE / 2.0, y - 4, series);
  put_text(canvas, x + LEGEND_SAMPLE + 6, y, TEXT_SIZE, QB_ANCHOR_START, series->name);
}

/* Rows of entries from `top`; returns their height. A NULL canvas measures only. */
static double flow_legend(const qb_figure *figure, qb_canvas *canvas, double top) {
  const qb_plot_series *series;
  double x = MARGIN + 4, limit = figure_width(figure) - MARGIN, y = top + LEGEND_ROW - 5;
  int count = 0;
  for (; legend_entry(figure, count, &series); count++) {
    double width = legend_width(series);
    if (count > 0 && x + width - LEGEND_GAP > limit) {
      x = MARGIN + 4;
      y += LEGEND_ROW;
    }
    if (canvas != NULL)
      draw_legend_entry(canvas, x, y, series);
    x += width;
  }
  return count == 0 ? 0 : y - top + 9;
}

/* Height above the panels. */
static double head_height(const qb_figure *figure) {
  double height = MARGIN / 2.0;
  height += figure->title != NULL ? TITLE_SIZE + 9 : 0;
  height += figure->subtitle != NULL ? SUBTITLE_SIZE + 8 : 0;
  return height + flow_legend(figure, NULL, 0);
}

static void draw_head(const qb_figure *figure, qb_canvas *canvas) {
  double y = MARGIN / 2.0;
  if (figure->title != NULL) {
    y += TITLE_SIZE + 9;
    canvas->text(canvas,
                 &(qb_text){.x = MARGIN + 4, .y = y - 7, .size = TITLE_SIZE, .bold = true, .string = figure->title});
  }
  if (figure->subtitle != NULL) {
    y += SUBTITLE_SIZE + 8;
    put_text(canvas, MARGIN + 4, y - 6, SUBTITLE_SIZE, QB_ANCHOR_START, figure->subtitle);
  }
  flow_legend(figure, canvas, y);
}

/* ---------------------------------------------------------------------------------------------------------- panels */

/* One panel while it is drawn: its plot area in pixels and the ranges of both axes. */
typedef struct panel {
  const qb_plot *plot;
  qb_canvas *canvas;
  double left, top, width, height;
  double range[2][2]; /* (axis, lo and hi) */
} panel;

static const qb_plot_axis *axis_of(const qb_plot *plot, int axis) { return axis == 0 ? &plot->x : &plot->y; }

static bool shown(const qb_plot_series *series, int i) { return isfinite(series->x[i]) && isfinite(series->y[i]); }

/* The range that shows all data, with some room, widened when it is a point. */
static void find_range(const qb_plot *plot, int axis, double range[2]) {
  const qb_plot_axis *a = axis_of(plot, axis);
  range[0] = a->lo;
  range[1] = a->hi;
  if (a->lo < a->hi)
    return;
  range[0] = INFINITY;
  range[1] = -INFINITY;
  for (int s = 0; s < plot->series_count; s++)
    for (int i = 0; i < plot->series[s].count; i++)
      if (shown(&plot->series[s], i)) {
        double value = axis == 0 ? plot->series[s].x[i] : plot->series[s].y[i];
        range[0] = fmin(range[0], value);
        range[1] = fmax(range[1], value);
      }
  if (!(range[0] <= range[1]))
    range[0] = 0, range[1] = 1;
  double room = (range[1] - range[0]) * 0.05;
  if (room == 0)
    room = a->log || range[0] == 0 ? 1 : fabs(range[0]) * 0.1;
  range[0] -= room;
  range[1] += room;
}

static double place(const panel *p, int axis, double value) {
  double share = (value - p->range[axis][0]) / (p->range[axis][1] - p->range[axis][0]);
  return axis == 0 ? p->left + share * p->width : p->top + (1 - share) * p->height;
}

static void draw_tick(const panel *p, int axis, double tick, const char *label) {
  double at = place(p, axis, tick);
  const double across[4] = {p->left, at, p->left + p->width, at};
  const double down[4] = {at, p->top, at, p->top + p->height};
  p->canvas->line(p->canvas, axis == 0 ? down : across, 2, QB_PAINT_GRID, 1, false);
  if (axis == 0)
    put_text(p->canvas, at, p->top + p->height + 16, TEXT_SIZE, QB_ANCHOR_MIDDLE, label);
  else
    put_text(p->canvas, p->left - 7, at + 4, TEXT_SIZE, QB_ANCHOR_END, label);
}

static void draw_ticks(const panel *p, int axis) {
  const qb_plot_axis *a = axis_of(p->plot, axis);
  double ticks[QB_PLOT_TICK_LIMIT], step;
  char label[QB_PLOT_LABEL];
  if (a->name_count > 0) {
    for (int i = 0; i < a->name_count; i++)
      if (i >= p->range[axis][0] && i <= p->range[axis][1])
        draw_tick(p, axis, i, a->names[i]);
    return;
  }
  int wanted = (int)(axis == 0 ? p->width / TICK_SPACING_ACROSS : p->height / TICK_SPACING_DOWN);
  int count = qb_plot_ticks(p->range[axis][0], p->range[axis][1], a->log, wanted, ticks, &step);
  for (int i = 0; i < count; i++) {
    qb_plot_label(ticks[i], step, a->log, label);
    draw_tick(p, axis, ticks[i], label);
  }
}

static void draw_axes(const panel *p, double x, double y, double height) {
  const double frame[10] =
      {p->left, p->top, p->left + p->width, p->top, p->left + p->width, p->top + p->height, p->left, p->top + p->height,
       p->left, p->top};
  draw_ticks(p, 0);
  draw_ticks(p, 1);
  p->canvas->line(p->canvas, frame, 5, QB_PAINT_AXIS, 1, false);
  if (p->plot->title != NULL)
    p->canvas->text(p->canvas, &(qb_text){.x = p->left,
                                          .y = p->top - 9,
                                          .size = SUBTITLE_SIZE,
                                          .bold = true,
                                          .string = p->plot->title});
  if (p->plot->x.title != NULL)
    put_text(p->canvas, p->left + p->width / 2, y + height - 12, TEXT_SIZE, QB_ANCHOR_MIDDLE, p->plot->x.title);
  if (p->plot->y.title != NULL)
    p->canvas->text(p->canvas, &(qb_text){.x = x + 14,
                                          .y = p->top + p->height / 2,
                                          .size = TEXT_SIZE,
                                          .anchor = QB_ANCHOR_MIDDLE,
                                          .upwards = true,
                                          .string = p->plot->y.title});
}

/* A point in pixels; false when the panel does not show it. */
static bool locate(const panel *p, const qb_plot_series *series, int i, double point[2]) {
  if (!shown(series, i) || series->x[i] < p->range[0][0] || series->x[i] > p->range[0][1] ||
      series->y[i] < p->range[1][0] || series->y[i] > p->range[1][1])
    return false;
  point[0] = place(p, 0, series->x[i]);
  point[1] = place(p, 1, series->y[i]);
  return true;
}

static void draw_series(const panel *p, const qb_plot_series *series) {
  double segment[4];
  int paint = QB_PAINT_SERIES + series->colour % QB_PLOT_COLOURS;
  for (int i = 1; i < series->count && series->line; i++)
    if (locate(p, series, i - 1, segment) && locate(p, series, i, segment + 2))
      p->canvas->line(p->canvas, segment, 2, paint, 2, series->dashed);
  for (int i = 0; i < series->count && !series->no_markers; i++)
    if (locate(p, series, i, segment))
      draw_marker(p->canvas, segment[0], segment[1], series);
}

static void draw_panel(const qb_plot *plot, qb_canvas *canvas, double x, double y, double width, double height) {
  panel p = {.plot = plot,
             .canvas = canvas,
             .left = x + LEFT,
             .top = y + TOP,
             .width = width - LEFT - RIGHT,
             .height = height - TOP - BOTTOM};
  find_range(plot, 0, p.range[0]);
  find_range(plot, 1, p.range[1]);
  draw_axes(&p, x, y, height);
  for (int s = 0; s < plot->series_count; s++)
    draw_series(&p, &plot->series[s]);
}

/* ----------------------------------------------------------------------------------------------------- the figure */

qb_status qb_figure_check(const qb_figure *figure, qb_error *error) {
  if (figure->panel_count < 1 || figure->columns < 1)
    return qb_fail(error, QB_ERROR_ARGUMENT, "a figure needs at least one panel and one column");
  for (int p = 0; p < figure->panel_count; p++)
    if (figure->panels[p].series_count > QB_PLOT_SERIES_LIMIT)
      return qb_fail(error, QB_ERROR_ARGUMENT, "a panel shows at most %d series, not %d", QB_PLOT_SERIES_LIMIT,
                     figure->panels[p].series_count);
  if ((figure->panel_width != 0 && figure->panel_width < 160) ||
      (figure->panel_height != 0 && figure->panel_height < 120) || figure_width(figure) > 8192)
    return qb_fail(error, QB_ERROR_ARGUMENT, "a panel needs at least 160 by 120 pixels, a figure at most 8192 across");
  return QB_OK;
}

void qb_figure_size(const qb_figure *figure, double *width, double *height) {
  int rows = (figure->panel_count + figure->columns - 1) / figure->columns;
  *width = figure_width(figure);
  *height = head_height(figure) + rows * (double)(figure->panel_height > 0 ? figure->panel_height : PANEL_HEIGHT);
}

void qb_figure_draw(const qb_figure *figure, qb_canvas *canvas) {
  double width = figure->panel_width > 0 ? figure->panel_width : PANEL_WIDTH;
  double height = figure->panel_height > 0 ? figure->panel_height : PANEL_HEIGHT;
  double top = head_height(figure);
  draw_head(figure, canvas);
  for (int i = 0; i < figure->panel_count; i++)
    draw_panel(&figure->panels[i], canvas, MARGIN + i % figure->columns * width, top + i / figure->columns * height,
               width, height);
}
