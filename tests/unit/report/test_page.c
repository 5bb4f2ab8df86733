/* Report pages: hostile names stay text, certificates of other networks are refused, pictures and base64 are right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "report/page.h"
#include "report/png_writer.h"
#include "support/temp_folder.h"

static const char hostile[] = "</td><script>alert(\"1\")</script>&\x01\xff\xc0\xaf 'n\xc3\xa9'";

static void text_from_files_is_escaped(void **state) {
  (void)state;
  qb_text_writer w = {0};
  qb_write_escaped(&w, hostile);
  assert_string_equal(w.text,
                      "&lt;/td&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;???? &#39;n\xc3\xa9&#39;");
  qb_free(w.text);
  w = (qb_text_writer){0};
  qb_write_escaped(&w, "\xed\xa0\x80\xf5\x80\x80\x80\xe2\x82"); /* a surrogate, beyond Unicode, cut short */
  assert_string_equal(w.text, "?????????");
  qb_free(w.text);
}

/* RFC 4648, section 10 */
static void base64_is_that_of_the_standard(void **state) {
  (void)state;
  static const char *const cases[][2] = {{"f", "Zg=="},        {"fo", "Zm8="},        {"foo", "Zm9v"},
                                         {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    qb_text_writer w = {0};
    qb_write_base64(&w, (const uint8_t *)cases[i][0], strlen(cases[i][0]));
    assert_string_equal(w.text, cases[i][1]);
    qb_free(w.text);
  }
}

static void make_page(qb_page *page, qb_page_layer *layer, qb_page_input *input, const char *const *names) {
  static uint8_t pixels[2 * 3 * 3] = {255, 0, 0};
  *layer = (qb_page_layer){.name = hostile, .op = "Conv", .bits = 4, .weights = 9, .radius = 1, .share = 1};
  layer->sensitivity = NAN;
  *input = (qb_page_input){.name = hostile, .top = 0, .other_top = 1, .label = -1, .error = 2, .height = 2, .width = 3};
  input->pixels = pixels;
  *page = (qb_page){.data = hostile, .preprocess = "raw", .command = hostile, .images = 10, .layers = layer};
  page->model = (qb_page_network){.file = hostile, .size_bytes = 100, .top1 = NAN, .top5 = NAN};
  page->other = page->model;
  page->layer_count = page->input_count = page->class_count = 1;
  page->inputs = input;
  page->class_names = names;
  page->errors = (qb_page_histogram){.title = "e", .hi = 1, .first = {7, 0, 3}};
  page->weights = (qb_page_histogram){.title = hostile, .lo = -1, .hi = 1, .first = {1}, .other = {1}};
  page->error_max = 2;
}

static int count_of(const char *text, const char *part) {
  int count = 0;
  for (const char *at = text; (at = strstr(at, part)) != NULL; at += strlen(part))
    count++;
  return count;
}

static void hostile_names_stay_text(void **state) {
  (void)state;
  const char *const names[] = {hostile};
  qb_page page;
  qb_page_layer layer;
  qb_page_input input;
  qb_text_writer w;
  qb_error error;
  make_page(&page, &layer, &input, names);
  snprintf(page.certificate.statements[0], sizeof page.certificate.statements[0], "%s", hostile);
  page.certificate.statement_count = 1;
  page.certificate.rungs[0] = (qb_page_rung){.name = "<b>", .kind = "proved", .log10 = INFINITY, .text = "<i>"};
  page.certificate.rung_count = 1;
  assert_int_equal(qb_page_write(&page, &w, &error), QB_OK);
  assert_null(strstr(w.text, "<script"));
  assert_null(strstr(w.text, "http"));
  assert_true(count_of(w.text, "&lt;script&gt;") >= 8);
  static const char *const pairs[] = {"section", "table", "tr", "ul", "ol", "main", "svg", "div", "span", "b"};
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    char open[16], bare[16], closed[16];
    snprintf(open, sizeof open, "<%s ", pairs[i]);
    snprintf(bare, sizeof bare, "<%s>", pairs[i]);
    snprintf(closed, sizeof closed, "</%s>", pairs[i]);
    assert_int_equal(count_of(w.text, open) + count_of(w.text, bare), count_of(w.text, closed));
  }
  assert_non_null(strstr(w.text, "data:image/png;base64,iVBORw0KGgo"));
  qb_free(w.text);
}

static void every_failed_allocation_is_reported(void **state) {
  (void)state;
  qb_page page;
  qb_page_layer layer;
  qb_page_input input;
  make_page(&page, &layer, &input, NULL);
  page.class_count = 0;
  long live = qb_alloc_live();
  qb_status status = QB_ERROR_MEMORY;
  int failures = 0;
  for (long n = 0; status != QB_OK; n++) {
    qb_text_writer w;
    qb_error error;
    qb_alloc_fail_after(n);
    status = qb_page_write(&page, &w, &error);
    qb_alloc_fail_after(-1);
    assert_true(status == QB_OK || status == QB_ERROR_MEMORY);
    failures += status != QB_OK;
    qb_free(w.text);
    assert_int_equal(qb_alloc_live(), live);
  }
  assert_true(failures > 3);
}

/* ----------------------------------------------------------------------------------------------------- certificates */

static qb_status read_text(void **state, const char *text, qb_page_certificate *certificate, qb_error *error) {
  return qb_page_read_certificate(temp_write(*state, "page.json", text, strlen(text)), "aa", "bb", certificate, error);
}

static void certificates_become_sentences(void **state) {
  qb_error error;
  qb_page_certificate c;
  assert_int_equal(
      read_text(state,
                "{\"schema\":\"qbound.certificate/1\",\"models\":{\"float\":{\"sha256\":\"aa\"},\"quantized\":{"
                "\"sha256\":\"bb\"}},\"domain\":{\"description\":\"pixels "
                "unit\"},\"worst_case\":{\"method\":\"spectral\","
                "\"bound\":5.5,\"lower\":0.5,\"output_range\":\"inf\",\"vacuous\":false},\"tried\":[{\"method\":"
                "\"spectral\",\"log10\":0.7404},{\"method\":\"layerwise\",\"log10\":42.5},{\"method\":\"x\",\"log10\":"
                "\"not applicable\"}],\"balls\":[{\"radius\":0.1,\"bound\":2,\"lower\":1,\"decision\":\"PROVED\"},{"
                "\"radius\":0.1,\"bound\":3,\"lower\":0,\"decision\":\"UNKNOWN\"}]}",
                &c, &error),
      QB_OK);
  assert_int_equal(c.rung_count, 5);
  assert_true(c.rungs[0].best && !c.rungs[1].best);
  assert_string_equal(c.rungs[1].text, "3.16\302\26710^42");
  assert_int_equal(c.statement_count, 2);
  assert_non_null(strstr(c.statements[0], "no output changes by more than 5.5"));
  assert_non_null(strstr(c.statements[1], "On 2 balls of radius 0.1 no output changes by more than 3"));
  assert_non_null(strstr(c.statements[1], "On 1 of them"));
  assert_non_null(strstr(c.headline, "5.5"));
}

static void other_certificates_are_refused(void **state) {
  qb_error error;
  qb_page_certificate c;
  assert_int_equal(read_text(state,
                             "{\"schema\":\"qbound.certificate/1\",\"models\":{\"float\":{\"sha256\":\"aa\"},"
                             "\"quantized\":{\"sha256\":\"cc\"}}}",
                             &c, &error),
                   QB_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "another quantized network"));
  static const char *const bad[] = {"",
                                    "{",
                                    "[]",
                                    "3",
                                    "{\"schema\":7}",
                                    "{\"schema\":\"qbound.bound/1\"}",
                                    "{\"schema\":\"qbound.certificate/1\",\"models\":[1]}"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_int_equal(read_text(state, bad[i], &c, &error), QB_ERROR_FORMAT);
  assert_int_equal(qb_page_read_certificate("no/such.json", "aa", "bb", &c, &error), QB_ERROR_IO);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(text_from_files_is_escaped),    cmocka_unit_test(base64_is_that_of_the_standard),
      cmocka_unit_test(hostile_names_stay_text),       cmocka_unit_test(every_failed_allocation_is_reported),
      cmocka_unit_test(certificates_become_sentences), cmocka_unit_test(other_certificates_are_refused),
  };
  return cmocka_run_group_tests(tests, temp_folder_create, temp_folder_remove);
}
