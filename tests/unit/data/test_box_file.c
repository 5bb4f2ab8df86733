/* Boxes from VNNLIB and CSV files: limits, outward rounding, and what is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "data/box_file.h"
#include "support/temp_folder.h"

static const temp_folder *folder;

static qb_status read_text(const char *text, qb_input_boxes *boxes, qb_error *error) {
  return qb_input_boxes_read(temp_write(folder, "box", text, strlen(text)), boxes, error);
}

static void vnnlib_limits(void **state) {
  folder = *state;
  qb_input_boxes boxes;
  qb_error error;
  const char *text = "; a comment (with parentheses)\n(declare-const X_0 Real)\n(declare-const X_1 Real)\n"
                     "(declare-const Y_0 Real)\n(assert (<= X_0 0.5))\n(assert (>= X_0 -1))\n"
                     "(assert (and (<= -0.1 X_1) (<= X_1 0.1)))\n(assert (<= Y_0 3.0))\n"
                     "(assert (or (and (>= Y_0 1)) (and (<= Y_0 0))))\n";
  if (read_text(text, &boxes, &error) != QB_OK)
    fail_msg("%s", error.message);
  assert_int_equal(boxes.count, 1);
  assert_int_equal(boxes.boxes[0].count, 2);
  assert_true(boxes.boxes[0].lo[0] == -1 && boxes.boxes[0].hi[0] == 0.5F);
  assert_true((double)boxes.boxes[0].lo[1] <= -0.1 && (double)boxes.boxes[0].hi[1] >= 0.1);
  assert_true(boxes.boxes[0].hi[1] <= nextafterf(0.1F, 1) && boxes.boxes[0].lo[1] == -boxes.boxes[0].hi[1]);
  qb_input_boxes_free(&boxes);
}

static void csv_rows(void **state) {
  folder = *state;
  qb_input_boxes boxes;
  qb_error error;
  if (read_text("name,lo1,lo0,hi0,hi1,note\na,-2,-1,1,2,x\nb,0.1,0.25,0.25,0.3,\r\n\n", &boxes, &error) != QB_OK)
    fail_msg("%s", error.message);
  assert_int_equal(boxes.count, 2);
  assert_true(boxes.boxes[0].lo[0] == -1 && boxes.boxes[0].lo[1] == -2 && boxes.boxes[0].hi[1] == 2);
  assert_true(boxes.boxes[1].lo[0] == 0.25F && boxes.boxes[1].hi[0] == 0.25F);
  assert_true((double)boxes.boxes[1].lo[1] <= 0.1 && (double)boxes.boxes[1].hi[1] >= 0.3);
  qb_input_boxes_free(&boxes);
}

static void wrong_files_are_refused(void **state) {
  folder = *state;
  static const struct {
    const char *text, *part;
  } cases[] = {
      {"(assert (<= X_0 1))", "no finite interval"},
      {"(assert (<= X_0 1)", "not closed"},
      {"(assert (or (<= X_0 1) (>= X_0 2)))", "disjunction"},
      {"(assert (<= (+ X_0 X_1) 1))", "no interval"},
      {"(assert (>= X_0 2)) (assert (<= X_0 1))", "no finite interval"},
      {"(declare-const Y_0 Real)", "no input"},
      {"lo0,hi0\n1,x\n", "not a number"},
      {"lo0,hi0\n1\n", "fewer fields"},
      {"lo0,hi0\n2,1\n", "no finite interval"},
      {"lo0,hi0\n", "no box"},
      {"a,b\n1,2\n", "neither"},
      {"", "neither"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    qb_input_boxes boxes;
    qb_error error;
    qb_status status = read_text(cases[i].text, &boxes, &error);
    if (status != QB_ERROR_FORMAT || strstr(error.message, cases[i].part) == NULL)
      fail_msg("case %zu: status %d, %s", i, (int)status, status == QB_OK ? "accepted" : error.message);
    qb_input_boxes_free(&boxes);
  }
  qb_input_boxes boxes;
  qb_error error;
  assert_int_equal(qb_input_boxes_read("/nonexistent/box", &boxes, &error), QB_ERROR_IO);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(vnnlib_limits, temp_folder_create, temp_folder_remove),
      cmocka_unit_test_setup_teardown(csv_rows, temp_folder_create, temp_folder_remove),
      cmocka_unit_test_setup_teardown(wrong_files_are_refused, temp_folder_create, temp_folder_remove),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
