/* Data sets that settings name, opened and compared with a network. */
#ifndef QB_API_OPEN_DATA_H
#define QB_API_OPEN_DATA_H

#include "data/dataset.h"
#include "graph/graph.h"

/* Opens what `data` names; `what` ("measuring") is for the message when it names nothing. Free with qb_dataset_free. */
QB_MUST_CHECK qb_status qb_data_open(const qb_data *data, const char *what, qb_dataset **dataset, qb_error *error);

/* A sample has as many elements as the network's one input; their shapes may differ, (784) and (1, 28, 28). */
QB_MUST_CHECK qb_status qb_data_check_fit(const qb_dataset *dataset, const qb_model *model, const char *what,
                                          qb_error *error);

/* qb_dataset_read and qb_dataset_label for those who take a function and a context: `dataset` is a qb_dataset. */
qb_status qb_data_read_sample(const void *dataset, int64_t index, float *sample, qb_error *error);
int32_t qb_data_read_label(const void *dataset, int64_t index);

#endif
