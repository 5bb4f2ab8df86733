/* Figures as SVG. */
#include <string.h>

#include "base/error.h"
#include "report/plot_canvas.h"

typedef struct svg_canvas {
  qb_canvas canvas;
  FILE *stream;
} svg_canvas;

static FILE *stream_of(qb_canvas *canvas) { return ((svg_canvas *)canvas)->stream; }

/* XML without control characters, which it cannot hold. */
static void put_escaped(FILE *stream, const char *text, int length) {
  for (int i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c == '&')
      fputs("&amp;", stream);
    else if (c == '<')
      fputs("&lt;", stream);
    else if (c == '>')
      fputs("&gt;", stream);
    else if (c == '"')
      fputs("&quot;", stream);
    else
      fputc(c < 32 || c == 127 ? ' ' : c, stream);
  }
}

static void put_colour(FILE *stream, const char *attribute, int paint) {
  int rgb[3];
  qb_paint_rgb(paint, rgb);
  fprintf(stream, " %s=\"#%02x%02x%02x\"", attribute, rgb[0], rgb[1], rgb[2]);
}

static void put_points(FILE *stream, const double *points, int count) {
  fputs(" points=\"", stream);
  for (int i = 0; i < count; i++)
    fprintf(stream, "%s%.1f,%.1f", i == 0 ? "" : " ", points[2 * i], points[2 * i + 1]);
  fputc('"', stream);
}

static void svg_line(qb_canvas *canvas, const double *points, int count, int paint, double width, bool dashed) {
  FILE *stream = stream_of(canvas);
  fputs("<polyline fill=\"none\"", stream);
  if (paint == QB_PAINT_AXIS || paint == QB_PAINT_GRID)
    fprintf(stream, " class=\"%s\"", paint == QB_PAINT_AXIS ? "qb-line" : "qb-grid");
  put_colour(stream, "stroke", paint);
  fprintf(stream, " stroke-width=\"%g\"%s", width, dashed ? " stroke-dasharray=\"6 4\"" : "");
  put_points(stream, points, count);
  fputs("/>\n", stream);
}

static void svg_polygon(qb_canvas *canvas, const double *points, int count, int paint, bool hollow) {
  FILE *stream = stream_of(canvas);
  fputs("<polygon", stream);
  put_colour(stream, "stroke", paint);
  put_colour(stream, "fill", hollow ? QB_PAINT_PAPER : paint);
  fprintf(stream, " stroke-width=\"%s\"", hollow ? "1.5" : "0.5");
  put_points(stream, points, count);
  fputs("/>\n", stream);
}

static void svg_text(qb_canvas *canvas, const qb_text *text) {
  static const char *const anchors[] = {"start", "middle", "end"};
  FILE *stream = stream_of(canvas);
  fprintf(stream, "<text class=\"qb-ink\" x=\"%.1f\" y=\"%.1f\" font-size=\"%g\" text-anchor=\"%s\"", text->x, text->y,
          text->size, anchors[text->anchor]);
  put_colour(stream, "fill", QB_PAINT_INK);
  if (text->bold)
    fputs(" font-weight=\"600\"", stream);
  if (text->upwards)
    fprintf(stream, " transform=\"rotate(-90 %.1f %.1f)\"", text->x, text->y);
  fputc('>', stream);
  const char *at = text->string, *start;
  int length, level;
  double shift = 0;
  while ((at = qb_text_piece(at, &start, &length, &level)) != NULL) {
    double wanted = level > 0 ? -0.38 * text->size : level < 0 ? 0.22 * text->size : 0;
    if (wanted == shift) {
      put_escaped(stream, start, length);
      continue;
    }
    fprintf(stream, "<tspan dy=\"%.1f\"", wanted - shift);
    if (level != 0)
      fprintf(stream, " font-size=\"%.1f\"", text->size * QB_TEXT_SMALL_PERCENT / 100);
    fputc('>', stream);
    put_escaped(stream, start, length);
    fputs("</tspan>", stream);
    shift = wanted;
  }
  fputs("</text>\n", stream);
}

qb_status qb_plot_svg(const qb_figure *figure, bool embedded, FILE *stream, qb_error *error) {
  double width, height;
  svg_canvas svg = {{svg_line, svg_polygon, svg_text}, stream};
  QB_TRY(qb_figure_check(figure, error));
  qb_figure_size(figure, &width, &height);
  if (!embedded)
    fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n", stream);
  fprintf(stream,
          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\" "
          "font-family=\"Helvetica, Arial, sans-serif\" role=\"img\" stroke-linejoin=\"round\">\n",
          width, height, width, height);
  if (figure->title != NULL) {
    fputs("<title>", stream);
    put_escaped(stream, figure->title, (int)strlen(figure->title));
    fputs("</title>\n", stream);
  }
  if (!embedded)
    fputs("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n", stream);
  qb_figure_draw(figure, &svg.canvas);
  fputs("</svg>\n", stream);
  return ferror(stream) ? qb_fail(error, QB_ERROR_IO, "the picture cannot be written") : QB_OK;
}
