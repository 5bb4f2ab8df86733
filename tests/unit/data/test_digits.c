/* Generated digits: the same bytes everywhere and from every thread, balanced classes, pictures that use the range. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "data/digit_glyphs.h"
#include "data/digits.h"

enum { STORED = 10 };

typedef struct sample {
  uint8_t pixels[QB_DIGITS_PIXELS];
  int32_t label;
} sample;

static sample draw(uint64_t seed, uint64_t index) {
  sample s;
  memset(s.pixels, 0xa5, sizeof s.pixels);
  s.label = -1;
  qb_digits_image(seed, index, s.pixels, &s.label);
  return s;
}

/* Computed once by the generator; they pin the committed example network's data. */
static const struct {
  int32_t label;
  const char *sha256;
} stored[STORED] = {
    {8, "51ac01210d6e422a310f7a55598660c6af00ab8ee9e130c716ea21316baafbad"},
    {9, "85d64eabdef982dc775feec8aba039194157a53f9108b48342d1d55e530ced69"},
    {0, "9cdb5c242900dfeb180d17e55f74f828cf99b3d189d0860ca0877c7b5f5579e0"},
    {5, "a07c8fd76bdd1cec0e7bcfd2410233da01e5809a53ce4fc1245c27e095b6cb2b"},
    {2, "0eda457c70aebe0f6003c64577f62de6603bb36f04c9600c4bc99b6ac80cd5b3"},
    {3, "bba63d105f27661add6523618befcc9e2eaa16a77d83cf22d812f38cd8eb7cbd"},
    {1, "fc3cb6b09a6c14b783bd84387da7cd732ef6deddad3ec1d93683d867097ef141"},
    {6, "494ba3357e8dceca213c29ed30f92fb77b903849764bce9970b76597a72f6968"},
    {4, "ee901c0e1973350be4980b4018f91f48114cd296d57c5b54256ec9a0b3c9ec9b"},
    {7, "942cef04e1a59d5d026c50545cb4922d16a5b1703edec044882ac86bf5ccf593"},
};

static void samples_have_their_stored_bytes(void **state) {
  (void)state;
  for (uint64_t i = 0; i < STORED; i++) {
    sample s = draw(1, i);
    qb_hash hash;
    char text[QB_HASH_TEXT];
    assert_int_equal(qb_hash_bytes(s.pixels, sizeof s.pixels, &hash, NULL), QB_OK);
    assert_string_equal(qb_hash_print(&hash, text), stored[i].sha256);
    assert_int_equal(s.label, stored[i].label);
  }
}

static void every_block_of_ten_holds_every_class(void **state) {
  (void)state;
  for (uint64_t block = 0; block < 50; block++) {
    int seen[QB_DIGITS_CLASSES] = {0};
    for (uint64_t i = 0; i < QB_DIGITS_CLASSES; i++) {
      sample s = draw(7, block * QB_DIGITS_CLASSES + i);
      assert_in_range(s.label, 0, QB_DIGITS_CLASSES - 1);
      seen[s.label]++;
    }
    for (int c = 0; c < QB_DIGITS_CLASSES; c++)
      assert_int_equal(seen[c], 1);
  }
}

/* The order of classes within a block must depend on the block and on the seed, or a label would follow from the
 * index alone. */
static void label_order_varies(void **state) {
  (void)state;
  int by_block = 0, by_seed = 0;
  for (uint64_t i = 0; i < 100; i++) {
    by_block += draw(3, i).label == draw(3, i + 10).label;
    by_seed += draw(3, i).label == draw(4, i).label;
  }
  assert_in_range(by_block, 0, 30);
  assert_in_range(by_seed, 0, 30);
}

static void seeds_and_indices_give_distinct_images(void **state) {
  (void)state;
  sample base = draw(1, 0);
  const uint64_t others[][2] = {{1, 1}, {1, 10}, {2, 0}, {0, 0}, {0, 1}, {UINT64_MAX, UINT64_MAX}, {1, UINT64_MAX}};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    sample other = draw(others[i][0], others[i][1]);
    assert_int_not_equal(memcmp(base.pixels, other.pixels, sizeof base.pixels), 0);
  }
}

/* A digit must stand out: over many images the pixels span the byte range, none is flat, and the mean is between. */
static void pixels_use_the_range(void **state) {
  (void)state;
  int lowest = 255, highest = 0;
  double sum = 0;
  for (uint64_t i = 0; i < 500; i++) {
    sample s = draw(11, i);
    int lo = 255, hi = 0;
    for (int p = 0; p < QB_DIGITS_PIXELS; p++) {
      lo = s.pixels[p] < lo ? s.pixels[p] : lo;
      hi = s.pixels[p] > hi ? s.pixels[p] : hi;
      sum += s.pixels[p];
    }
    assert_true(hi - lo >= 40);
    lowest = lo < lowest ? lo : lowest;
    highest = hi > highest ? hi : highest;
  }
  assert_int_equal(lowest, 0);
  assert_int_equal(highest, 255);
  double mean = sum / (500.0 * QB_DIGITS_PIXELS);
  assert_true(mean > 60 && mean < 195);
}

/* ---------------------------------------------------------------------------------------------------- threads */

enum { THREADS = 4, THREAD_SAMPLES = 200 };

typedef struct work {
  int first; /* threads start at different samples, so that they meet different states */
  sample samples[THREAD_SAMPLES];
} work;

static void *draw_all(void *argument) {
  work *w = argument;
  for (int i = 0; i < THREAD_SAMPLES; i++) {
    int index = (w->first + i) % THREAD_SAMPLES;
    w->samples[index] = draw(5, (uint64_t)index);
  }
  return NULL;
}

static void threads_draw_the_same_samples(void **state) {
  (void)state;
  static work works[THREADS];
  pthread_t threads[THREADS];
  for (int t = 0; t < THREADS; t++) {
    works[t].first = t * THREAD_SAMPLES / THREADS;
    assert_int_equal(pthread_create(&threads[t], NULL, draw_all, &works[t]), 0);
  }
  for (int t = 0; t < THREADS; t++)
    assert_int_equal(pthread_join(threads[t], NULL), 0);
  for (int i = 0; i < THREAD_SAMPLES; i++) {
    sample alone = draw(5, (uint64_t)i);
    for (int t = 0; t < THREADS; t++) {
      assert_int_equal(works[t].samples[i].label, alone.label);
      assert_memory_equal(works[t].samples[i].pixels, alone.pixels, sizeof alone.pixels);
    }
  }
}

/* ---------------------------------------------------------------------------------------------------- glyphs */

/* The drawing code relies on these: a start first, an end inside the row, a line point after each control point. */
static void glyphs_are_well_formed(void **state) {
  (void)state;
  for (int32_t digit = 0; digit < QB_DIGITS_CLASSES; digit++) {
    int32_t styles = qb_glyph_style_count(digit);
    assert_in_range(styles, 2, QB_GLYPH_MAX_STYLES);
    for (int32_t style = 0; style < styles; style++) {
      const qb_glyph_point *p = qb_glyph_points(digit, style);
      assert_int_equal(p[0].kind, QB_GLYPH_START);
      int i = 1;
      for (; i < QB_GLYPH_MAX_POINTS && p[i].kind != QB_GLYPH_END; i++)
        if (p[i - 1].kind != QB_GLYPH_LINE)
          assert_true(p[i].kind == QB_GLYPH_LINE || (p[i - 1].kind == QB_GLYPH_START && p[i].kind == QB_GLYPH_CURVE));
      assert_in_range(i, 2, QB_GLYPH_MAX_POINTS - 1);
      assert_int_equal(p[i - 1].kind, QB_GLYPH_LINE);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(samples_have_their_stored_bytes),
      cmocka_unit_test(every_block_of_ten_holds_every_class),
      cmocka_unit_test(label_order_varies),
      cmocka_unit_test(seeds_and_indices_give_distinct_images),
      cmocka_unit_test(pixels_use_the_range),
      cmocka_unit_test(threads_draw_the_same_samples),
      cmocka_unit_test(glyphs_are_well_formed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
