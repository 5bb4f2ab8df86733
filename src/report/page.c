/* The report page: verdict first, then what stands behind it. See page.h. */
#include "report/page.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "report/page_sections.h"
#include "report/png_writer.h"

/* ---------------------------------------------------------------------------------------------------------- verdict */

/* "4-bit", "2- to 8-bit", "float". */
static void describe_bits(const qb_page *page, char *text, size_t size) {
  int lo = 0, hi = 0;
  for (int i = 0; i < page->layer_count; i++) {
    int bits = page->layers[i].bits;
    if (bits == 0)
      continue;
    lo = lo == 0 || bits < lo ? bits : lo;
    hi = bits > hi ? bits : hi;
  }
  if (hi == 0)
    snprintf(text, size, "other");
  else if (lo == hi)
    snprintf(text, size, "%d-bit", hi);
  else
    snprintf(text, size, "%d- to %d-bit", lo, hi);
}

static void write_verdict(qb_text_writer *w, const qb_page *page) {
  char bits[32], text[512];
  describe_bits(page, bits, sizeof bits);
  double smaller = (double)page->model.size_bytes / (double)page->other.size_bytes;
  int used = snprintf(text, sizeof text, "The %s network takes ", bits);
  if (smaller >= 1.05)
    used += snprintf(text + used, sizeof text - (size_t)used, "%.1f times less space", smaller);
  else
    used += snprintf(text + used, sizeof text - (size_t)used, "about the same space");
  used += snprintf(text + used, sizeof text - (size_t)used, " and decides differently on %lld of %lld inputs",
                   (long long)page->flips, (long long)page->images);
  if (!isnan(page->model.top1))
    used += snprintf(text + used, sizeof text - (size_t)used, "; it is right on %.1f %% of them, before on %.1f %%",
                     100 * page->other.top1, 100 * page->model.top1);
  snprintf(text + used, sizeof text - (size_t)used, ".");
  qb_write_text(w, "<p class=\"verdict\">");
  qb_write_escaped(w, text);
  qb_write_text(w, "</p>");
  if (page->certificate.headline[0] != '\0') {
    qb_write_text(w, "<p class=\"verdict\">");
    qb_write_escaped(w, page->certificate.headline);
    qb_write_text(w, "</p>");
  }
}

static void write_fact(qb_text_writer *w, const char *value, const char *what) {
  qb_write_text(w, "<li><b>");
  qb_write_escaped(w, value);
  qb_write_text(w, "</b><span>");
  qb_write_escaped(w, what);
  qb_write_text(w, "</span></li>");
}

static void write_facts(qb_text_writer *w, const qb_page *page) {
  char value[64];
  qb_write_text(w, "<ul class=\"facts\">");
  qb_page_bytes(page->other.size_bytes, value);
  write_fact(w, value, "file, quantized");
  snprintf(value, sizeof value, "%.2f %%", 100.0 * (double)page->flips / (double)page->images);
  write_fact(w, value, "of inputs change class (measured)");
  if (!isnan(page->model.top1)) {
    snprintf(value, sizeof value, "%+.2f points", 100 * (page->other.top1 - page->model.top1));
    write_fact(w, value, "top-1 accuracy (measured)");
  }
  snprintf(value, sizeof value, "%.4g", page->error_max);
  write_fact(w, value, "largest change of an output (measured)");
  qb_write_text(w, "</ul>");
}

/* --------------------------------------------------------------------------------------------------------- the page */

static void write_head(qb_text_writer *w, const qb_page *page) {
  qb_write_text(w, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
                   "content=\"width=device-width,initial-scale=1\"><meta name=\"generator\" content=\"qbound ");
  qb_write_escaped(w, qb_version());
  qb_write_text(w, "\"><title>");
  qb_write_escaped(w, page->other.file);
  qb_write_text(w, " - qbound report</title><link rel=\"icon\" href=\"data:,\"><style>");
  for (int i = 0; qb_page_style[i] != NULL; i++)
    qb_write_text(w, qb_page_style[i]);
  qb_write_text(w, "</style></head><body><a class=\"skip\" href=\"#main\">Skip to the report</a><header><h1>");
  qb_write_escaped(w, page->other.file);
  qb_write_text(w, " beside ");
  qb_write_escaped(w, page->model.file);
  qb_write_text(w, "</h1>");
  write_verdict(w, page);
  write_facts(w, page);
  qb_write_text(w, "<nav aria-label=\"Sections\"><ul><li><a href=\"#proved\">Proved and measured</a></li><li><a "
                   "href=\"#accuracy\">Accuracy</a></li><li><a href=\"#errors\">Errors</a></li><li><a "
                   "href=\"#layers\">Layers</a></li><li><a href=\"#weights\">Weights</a></li><li><a "
                   "href=\"#inputs\">Inputs</a></li><li><a href=\"#origin\">Origin</a></li></ul></nav></header><main "
                   "id=\"main\">");
}

qb_status qb_page_write(const qb_page *page, qb_text_writer *w, qb_error *error) {
  *w = (qb_text_writer){0};
  write_head(w, page);
  qb_page_section_proved(w, page);
  qb_page_section_accuracy(w, page);
  qb_page_section_errors(w, page);
  qb_page_section_layers(w, page);
  qb_page_section_weights(w, page);
  qb_status status = qb_page_section_inputs(w, page, error);
  qb_page_section_origin(w, page);
  qb_write_format(w, "</main><footer>Made by qbound %s. ", qb_version());
  qb_write_text(w, "Measured numbers speak of the inputs they were measured on; proved ones of every input they name. "
                   "Nothing on this page was fetched from anywhere.</footer></body></html>\n");
  if (status == QB_OK && w->failed)
    status = qb_fail_memory(error, "the report", w->capacity);
  if (status != QB_OK) {
    qb_free(w->text);
    *w = (qb_text_writer){0};
  }
  return status;
}
