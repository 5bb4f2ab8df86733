/* The parts of a report page, gathered; report_page.c puts them together. */
#ifndef QB_API_PAGE_PARTS_H
#define QB_API_PAGE_PARTS_H

#include "api/model.h"
#include "data/dataset.h"
#include "graph/pair.h"
#include "report/page.h"
#include "run/measure.h"

/* What one call of qb_report_page works with. */
typedef struct qb_page_work {
  const qb_model *model, *other;
  const qb_data *data;
  const qb_page_settings *settings;
  const qb_progress *progress;
  qb_preprocess preprocess;
  qb_dataset *dataset;
  qb_pair pair;
  qb_run_measure_info measured;
  qb_arena arena; /* of everything the page borrows */
  qb_page page;
  qb_error *error;
} qb_page_work;

/* Fills page.layers, and page.weights for the layer that is drawn (page_layers.c). */
QB_MUST_CHECK qb_status qb_page_list_layers(qb_page_work *work);

/* Fills page.inputs and page.class_names (page_inputs.c). */
QB_MUST_CHECK qb_status qb_page_list_inputs(qb_page_work *work);

#endif
