/* The sections of a report page: tables and the text around charts. */
#include "report/page_sections.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "report/png_writer.h"

static void open_section(qb_text_writer *w, const char *id, const char *title) {
  qb_write_format(w, "<section aria-labelledby=\"%s\"><h2 id=\"%s\">%s</h2>", id, id, title);
}

static void close_section(qb_text_writer *w) { qb_write_text(w, "</section>"); }

/* A table that scrolls on its own when it is wider than the page. `heads` joins the titles by '|'; a leading '<' makes
 * a column of text. */
static void open_table(qb_text_writer *w, const char *label, const char *heads) {
  qb_write_text(w, "<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"");
  qb_write_escaped(w, label);
  qb_write_text(w, "\"><table><thead><tr>");
  for (const char *at = heads; *at != '\0';) {
    size_t length = strcspn(at, "|");
    bool is_text = *at == '<';
    qb_write_text(w, is_text ? "<th scope=\"col\" class=\"text\">" : "<th scope=\"col\">");
    qb_write_bytes(w, at + is_text, length - is_text);
    qb_write_text(w, "</th>");
    at += length + (at[length] == '|');
  }
  qb_write_text(w, "</tr></thead><tbody>");
}

static void close_table(qb_text_writer *w) { qb_write_text(w, "</tbody></table></div>"); }

static void write_cell(qb_text_writer *w, const char *text) {
  qb_write_text(w, "<td>");
  qb_write_escaped(w, text);
  qb_write_text(w, "</td>");
}

static void write_number(qb_text_writer *w, const char *format, double value) QB_PRINTF(2, 0);
static void write_number(qb_text_writer *w, const char *format, double value) {
  char text[64] = "-";
  if (!isnan(value))
    snprintf(text, sizeof text, format, value);
  write_cell(w, text);
}

/* Names of layers differ at their ends: that is what a long one shows; the whole of it is in the title. */
static const char *tail_of(const char *text) {
  enum { SHOWN = 36 };
  size_t length = strlen(text), at = length > SHOWN ? length - SHOWN : 0;
  while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80)
    at++;
  return text + at;
}

static void write_row_head(qb_text_writer *w, const char *text) {
  qb_write_text(w, "<tr><th scope=\"row\" class=\"name\" title=\"");
  qb_write_escaped(w, text);
  qb_write_text(w, tail_of(text) != text ? "\">\xe2\x80\xa6" : "\">");
  qb_write_escaped(w, tail_of(text));
  qb_write_text(w, "</th>");
}

const char *qb_page_bytes(int64_t size_bytes, char text[QB_PAGE_BYTES_TEXT]) {
  static const char *const units[] = {"bytes", "kB", "MB", "GB"};
  double size = (double)size_bytes;
  int unit = 0;
  for (; size >= 1000 && unit < 3; unit++)
    size /= 1000;
  snprintf(text, QB_PAGE_BYTES_TEXT, unit == 0 ? "%.0f %s" : "%.3g %s", size, units[unit]);
  return text;
}

/* ----------------------------------------------------------------------------------------------- proved and measured
 */

static void add_measured(const char *name, double value, qb_page_rung *rung) {
  *rung = (qb_page_rung){.kind = "measured on these inputs", .log10 = value > 0 ? log10(value) : -INFINITY};
  snprintf(rung->name, sizeof rung->name, "%s", name);
  snprintf(rung->text, sizeof rung->text, "%.4g", value);
}

void qb_page_section_proved(qb_text_writer *w, const qb_page *page) {
  qb_page_rung rungs[QB_PAGE_RUNGS + 3];
  const qb_page_certificate *certificate = &page->certificate;
  int count = certificate->rung_count;
  memcpy(rungs, certificate->rungs, (size_t)count * sizeof *rungs);
  add_measured("largest change of an output", page->error_max, &rungs[count++]);
  add_measured("99 % of inputs change by at most", page->error_p99, &rungs[count++]);
  add_measured("mean over inputs of the largest change", page->error_mean, &rungs[count++]);
  open_section(w, "proved", "Proved and measured");
  qb_write_text(w, "<p>How far an output of the quantized network can be from the original's: what is proved, and what "
                   "was seen.</p>");
  qb_page_draw_ladder(w, rungs, count);
  if (certificate->file == NULL)
    qb_write_text(w, "<p class=\"soft\">No certificate was given: nothing on this page is proved. "
                     "<code>qbound certify</code> makes one.</p>");
  if (certificate->statement_count > 0) {
    qb_write_text(w, "<ul>");
    for (int i = 0; i < certificate->statement_count; i++) {
      qb_write_text(w, "<li>");
      qb_write_escaped(w, certificate->statements[i]);
      qb_write_text(w, "</li>");
    }
    qb_write_text(w, "</ul>");
  }
  close_section(w);
}

/* --------------------------------------------------------------------------------------------------------- accuracy */

static void write_network(qb_text_writer *w, const char *name, const qb_page_network *network) {
  char size[QB_PAGE_BYTES_TEXT];
  write_row_head(w, name);
  write_cell(w, qb_page_bytes(network->size_bytes, size));
  write_cell(w, qb_page_bytes(network->weight_bytes, size));
  write_number(w, "%.2f %%", 100 * network->top1);
  write_number(w, "%.2f %%", 100 * network->top5);
  qb_write_text(w, "</tr>");
}

void qb_page_section_accuracy(qb_text_writer *w, const qb_page *page) {
  open_section(w, "accuracy", "Accuracy and decisions");
  open_table(w, "Accuracy and size", "Network|File|Weights|Top-1|Top-5");
  write_network(w, "original", &page->model);
  write_network(w, "quantized", &page->other);
  close_table(w);
  qb_write_format(w, "<p>Measured on %lld inputs, %lld of them with a label. The first class changes on <b>%lld</b>.",
                  (long long)page->images, (long long)page->labelled, (long long)page->flips);
  if (page->labelled > 0)
    qb_write_format(w,
                    " The original alone is right on %lld of them, the quantized network alone on %lld (exact McNemar "
                    "test: p = %.3g%s).",
                    (long long)page->lost, (long long)page->gained, page->mcnemar_p,
                    page->mcnemar_p > 0.05 ? ", no difference that this many inputs can show" : "");
  qb_write_text(w, "</p>");
  close_section(w);
}

/* ----------------------------------------------------------------------------------------------------------- errors */

void qb_page_section_errors(qb_text_writer *w, const qb_page *page) {
  open_section(w, "errors", "How large the errors are");
  qb_page_draw_histogram(w, &page->errors, "inputs", NULL, "largest change of an output on an input");
  qb_write_format(w, "<p>Largest %.4g, 99 %% of inputs at most %.4g, mean %.4g (measured).</p>", page->error_max,
                  page->error_p99, page->error_mean);
  close_section(w);
}

/* ----------------------------------------------------------------------------------------------------------- layers */

static void write_share(qb_text_writer *w, double share) {
  if (isnan(share)) {
    write_cell(w, "-");
    return;
  }
  qb_write_format(w, "<td>%.1f %%<span class=\"meter\" aria-hidden=\"true\"><i style=\"width:%.0f%%\"></i></span></td>",
                  100 * share, 100 * share);
}

static double largest_sensitivity(const qb_page *page) {
  double largest = 0;
  for (int i = 0; i < page->layer_count; i++)
    if (page->layers[i].sensitivity > largest)
      largest = page->layers[i].sensitivity;
  return largest;
}

static void write_sensitivity(qb_text_writer *w, double value, double largest) {
  if (isnan(value)) {
    write_cell(w, "-");
    return;
  }
  qb_write_format(w, "<td>%.3g<span class=\"meter\" aria-hidden=\"true\"><i style=\"width:%.0f%%\"></i></span></td>",
                  value, largest > 0 ? 100 * value / largest : 0.0);
}

static void write_layer(qb_text_writer *w, const qb_page_layer *layer, double largest) {
  char text[64];
  write_row_head(w, layer->name);
  write_cell(w, layer->op);
  snprintf(text, sizeof text, layer->bits > 0 ? "%d" : "float", layer->bits);
  write_cell(w, text);
  snprintf(text, sizeof text, "%lld", (long long)layer->weights);
  write_cell(w, text);
  write_number(w, "%.4g", layer->radius);
  write_number(w, "%.3g", layer->delta);
  write_share(w, layer->share);
  write_sensitivity(w, layer->sensitivity, largest);
  qb_write_text(w, "</tr>");
}

void qb_page_section_layers(qb_text_writer *w, const qb_page *page) {
  double largest = largest_sensitivity(page);
  open_section(w, "layers", "Layer by layer");
  open_table(w, "Layers", "Layer|Operator|Bits|Weights|Radius r|Largest change|Share of the bound|Sensitivity");
  for (int i = 0; i < page->layer_count; i++)
    write_layer(w, &page->layers[i], largest);
  close_table(w);
  qb_write_text(w, "<p class=\"soft\">Radius: largest l1 norm of a row of weights. Share of the bound: the layer's "
                   "part of the layerwise bound before any cap. ");
  if (page->sensitivity_images > 0)
    qb_write_format(w, "Sensitivity: mean change of the output on %lld inputs when this layer alone is quantized.",
                    (long long)page->sensitivity_images);
  qb_write_text(w, "</p>");
  close_section(w);
}

/* ---------------------------------------------------------------------------------------------------------- weights */

void qb_page_section_weights(qb_text_writer *w, const qb_page *page) {
  open_section(w, "weights", "Weights before and after");
  if (page->weights.title == NULL) {
    qb_write_text(w, "<p>No layer has quantized weights.</p>");
  } else {
    qb_write_text(w, "<p>Layer <b>");
    qb_write_escaped(w, page->weights.title);
    qb_write_text(w, "</b></p>");
    qb_page_draw_histogram(w, &page->weights, "original", "quantized", "value of a weight");
  }
  close_section(w);
}

/* ----------------------------------------------------------------------------------------------------------- inputs */

static void write_class(qb_text_writer *w, const qb_page *page, int32_t class) {
  if (class >= 0 && class < page->class_count)
    qb_write_escaped(w, page->class_names[class]);
  else
    qb_write_format(w, "class %d", class);
}

static qb_status write_input(qb_text_writer *w, const qb_page *page, const qb_page_input *input, qb_error *error) {
  qb_write_text(w, "<li>");
  if (input->pixels != NULL) {
    qb_write_text(w, "<img alt=\"");
    qb_write_escaped(w, input->name);
    qb_write_text(w, "\" src=\"");
    QB_TRY(qb_write_png(w, input->pixels, input->height, input->width, error));
    qb_write_text(w, "\">");
  }
  qb_write_format(w, "<div><b>%.4g</b> <span class=\"soft\">input %lld</span></div><div>before: ", input->error,
                  (long long)input->index);
  write_class(w, page, input->top);
  qb_write_text(w, "</div><div>after: ");
  qb_write_text(w, input->top != input->other_top ? "<b>" : "<span>");
  write_class(w, page, input->other_top);
  qb_write_text(w, input->top != input->other_top ? "</b></div>" : "</span></div>");
  if (input->label >= 0) {
    qb_write_text(w, "<div class=\"soft\">label: ");
    write_class(w, page, input->label);
    qb_write_text(w, "</div>");
  }
  qb_write_text(w, "</li>");
  return QB_OK;
}

qb_status qb_page_section_inputs(qb_text_writer *w, const qb_page *page, qb_error *error) {
  open_section(w, "inputs", "Inputs that change most");
  qb_write_text(w, "<ol class=\"gallery\">");
  for (int i = 0; i < page->input_count; i++)
    QB_TRY(write_input(w, page, &page->inputs[i], error));
  qb_write_text(w,
                "</ol><p class=\"soft\">Sorted by the largest change of an output, shown above each; a class in bold "
                "is another than before.</p>");
  close_section(w);
  return QB_OK;
}

/* ----------------------------------------------------------------------------------------------------------- origin */

static void write_entry(qb_text_writer *w, const char *name, const char *value) {
  if (value == NULL || value[0] == '\0')
    return;
  qb_write_format(w, "<dt>%s</dt><dd>", name);
  qb_write_escaped(w, value);
  qb_write_text(w, "</dd>");
}

void qb_page_section_origin(qb_text_writer *w, const qb_page *page) {
  open_section(w, "origin", "Where this comes from");
  qb_write_text(w, "<dl>");
  write_entry(w, "original", page->model.file);
  write_entry(w, "SHA-256", page->model.sha256);
  write_entry(w, "quantized", page->other.file);
  write_entry(w, "SHA-256", page->other.sha256);
  write_entry(w, "data", page->data);
  write_entry(w, "preprocessing", page->preprocess);
  write_entry(w, "certificate", page->certificate.file);
  write_entry(w, "command", page->command);
  write_entry(w, "qbound", qb_version());
  qb_write_text(w, "</dl>");
  close_section(w);
}
