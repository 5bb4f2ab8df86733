/* Charts of report pages. Bars are SVG that stretches; every word is HTML beside it, so that it stays readable on a
 * phone and follows the page's colours. */
#include <math.h>

#include "report/page.h"

/* -------------------------------------------------------------------------------------------------------- histogram */

static int64_t largest_count(const qb_page_histogram *h) {
  int64_t largest = 1;
  for (int b = 0; b < QB_PAGE_BINS; b++) {
    largest = h->first[b] > largest ? h->first[b] : largest;
    largest = h->other[b] > largest ? h->other[b] : largest;
  }
  return largest;
}

/* A bar of bin `b`; two series share a bin side by side. */
static void draw_bar(qb_text_writer *w, const qb_page_histogram *h, int b, bool two, bool second, int64_t largest) {
  int64_t count = second ? h->other[b] : h->first[b];
  double step = (h->hi - h->lo) / QB_PAGE_BINS, height = 1000.0 * (double)count / (double)largest;
  double width = two ? 45.0 : 92.0, left = 100.0 * b + 4.0 + (second ? 47.0 : 0.0);
  if (count == 0)
    return;
  height = height < 8.0 ? 8.0 : height; /* a single count stays visible */
  qb_write_format(w, "<rect class=\"%s\" x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"%.0f\"><title>",
                  second ? "other" : "first", left, 1000.0 - height, width, height);
  qb_write_format(w, "%.4g to %.4g: %lld</title></rect>", h->lo + b * step, h->lo + (b + 1) * step, (long long)count);
}

static void draw_key(qb_text_writer *w, const char *name, const char *colour) {
  qb_write_format(w, "<span><i style=\"background:var(--%s)\"></i>", colour);
  qb_write_escaped(w, name);
  qb_write_text(w, "</span>");
}

void qb_page_draw_histogram(qb_text_writer *w, const qb_page_histogram *h, const char *first, const char *other,
                            const char *unit) {
  int64_t largest = largest_count(h);
  qb_write_text(w, "<div class=\"chart\"><div class=\"key\">");
  draw_key(w, first, "first");
  if (other != NULL)
    draw_key(w, other, "other");
  qb_write_format(w, "</div><div class=\"axis\"><span>%lld</span></div>", (long long)largest);
  qb_write_format(w, "<svg viewBox=\"0 0 %d 1000\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"",
                  100 * QB_PAGE_BINS);
  qb_write_escaped(w, h->title);
  qb_write_text(w, "\">");
  for (int b = 0; b < QB_PAGE_BINS; b++) {
    draw_bar(w, h, b, other != NULL, false, largest);
    if (other != NULL)
      draw_bar(w, h, b, true, true, largest);
  }
  qb_write_format(w, "</svg><div class=\"axis\"><span>%.4g</span><span>%.4g</span><span>%.4g</span></div>", h->lo,
                  (h->lo + h->hi) / 2, h->hi);
  qb_write_text(w, "<div class=\"axis\"><span></span><span>");
  qb_write_escaped(w, unit);
  qb_write_text(w, "</span><span></span></div></div>");
}

/* ----------------------------------------------------------------------------------------------------------- ladder */

typedef struct ladder_axis {
  double lo, hi; /* decades */
} ladder_axis;

static ladder_axis find_axis(const qb_page_rung *rungs, int count) {
  ladder_axis axis = {INFINITY, -INFINITY};
  for (int i = 0; i < count; i++)
    if (isfinite(rungs[i].log10)) {
      axis.lo = fmin(axis.lo, floor(rungs[i].log10));
      axis.hi = fmax(axis.hi, ceil(rungs[i].log10));
    }
  if (!(axis.lo < axis.hi))
    axis = isfinite(axis.lo) ? (ladder_axis){axis.lo - 1, axis.lo + 1} : (ladder_axis){-1, 1};
  axis.lo -= 1; /* the smallest bar is seen, too */
  return axis;
}

static void draw_rung(qb_text_writer *w, const qb_page_rung *rung, const ladder_axis *axis) {
  double share = isfinite(rung->log10) ? 100 * (rung->log10 - axis->lo) / (axis->hi - axis->lo)
                 : rung->log10 > 0     ? 100.0
                                       : 0.0;
  bool proved = rung->kind[0] == 'p';
  qb_write_format(w, "<li class=\"%s%s\"><span>", proved ? "proved" : "measured", rung->best ? " best" : "");
  qb_write_escaped(w, rung->name);
  qb_write_text(w, "<small>");
  qb_write_escaped(w, rung->kind);
  qb_write_format(w, "</small></span><span class=\"track\"><i style=\"width:%.2f%%\"></i></span><output>", share);
  qb_write_escaped(w, rung->text);
  qb_write_text(w, "</output></li>");
}

void qb_page_draw_ladder(qb_text_writer *w, const qb_page_rung *rungs, int count) {
  ladder_axis axis = find_axis(rungs, count);
  qb_write_text(w, "<ol class=\"ladder\">");
  for (int i = 0; i < count; i++)
    draw_rung(w, &rungs[i], &axis);
  qb_write_format(w,
                  "</ol><p class=\"soft\">Bars are on one logarithmic axis, from 10<sup>%.0f</sup> to "
                  "10<sup>%.0f</sup>.</p>",
                  axis.lo, axis.hi);
}
