/* Training and quantizing the small network; see tiny_network.h. */
#include "support/tiny_network.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void must(qb_status status, const qb_error *error) {
  if (status != QB_OK)
    fail_msg("%s", error->message);
}

void tiny_network_train(const char *path) {
  qb_error error = {0};
  qb_train_settings settings;
  qb_data data;
  qb_data_default(&data);
  data.path = "digits:2000:3";
  data.preprocess = "unit";
  qb_train_settings_default(&settings);
  settings.layers = 3;
  settings.width = 20;
  settings.epochs = 4;
  must(qb_train_mlp(&data, NULL, &settings, NULL, path, &(qb_train_info){0}, &error), &error);
}

void tiny_network_quantize(const qb_model *model, int bits, const char *path) {
  qb_error error = {0};
  qb_quantize_settings settings;
  qb_save_settings save;
  qb_model *quantized = NULL;
  qb_quantize_settings_default(&settings);
  qb_save_settings_default(&save);
  settings.bits = bits;
  must(qb_quantize(model, &settings, NULL, &quantized, NULL, &error), &error);
  must(qb_model_save(quantized, path, &save, &(qb_save_info){0}, &error), &error);
  qb_model_free(quantized);
}
