/* pawl.h as a C11 program sees it: compiled without C++, called from client_test.cc. Every function
 * and every struct, in the order of a trainer's life, and each argument that may not be NULL.
 * Returns the line of the first check that fails, 0 if all hold. */
#include <math.h>
#include <pawl/pawl.h>
#include <string.h>

int pawl_abi_check(const char* directory, const void* image, uint64_t image_bytes);

#define CHECK(condition)                   \
    do {                                   \
        if (!(condition)) return __LINE__; \
    } while (0)
/* An error names its call. */
#define CHECK_REFUSED(call, name)                       \
    do {                                                \
        CHECK((call) == PAWL_E_INVALID);                \
        CHECK(strstr(pawl_last_error(), name) != NULL); \
    } while (0)

/* The layout that callers were compiled with. */
_Static_assert(sizeof(pawl_attach_options) == 64, "grows only at its end");
_Static_assert(sizeof(pawl_resume) == 48, "grows only at its end");
_Static_assert(sizeof(pawl_progress) == 32, "grows only at its end");
_Static_assert(sizeof(pawl_metric) == 16, "never grows: it stands in arrays");
_Static_assert(offsetof(pawl_attach_options, keep_last) == 56, "nothing moves");
_Static_assert(offsetof(pawl_resume, epoch) == 40, "nothing moves");
_Static_assert(offsetof(pawl_progress, loss) == 24, "nothing moves");
_Static_assert(PAWL_SKIPPED == 1 && PAWL_E_INVALID == -1 && PAWL_E_INTERNAL == -9, "codes stay");
_Static_assert(PAWL_TAKE_SNAPSHOT == 1 && PAWL_STOP == 2, "bits stay");
_Static_assert(PAWL_PHASE_TRAINING == 1 && PAWL_PHASE_EVALUATION == 2, "phases stay");

static int save(pawl_run* run, const void* image, uint64_t image_bytes) {
    pawl_metric metrics[] = {{"accuracy", 0.5}, {NULL, 1.0}};
    void* memory = NULL;
    CHECK(pawl_snapshot_begin(run, image_bytes, &memory) == PAWL_OK);
    CHECK(memory != NULL);
    memcpy(memory, image, image_bytes);
    CHECK(pawl_snapshot_seal(run, metrics, 2) == PAWL_OK);
    CHECK(strcmp(pawl_last_error(), "") == 0);
    return 0;
}

static int check_refusals(pawl_run* run) {
    pawl_progress progress = {.struct_size = sizeof progress, .step = 1};
    pawl_resume resume = {.struct_size = sizeof resume};
    uint32_t actions = 99;
    void* image = &actions;
    pawl_run* none = run;

    CHECK_REFUSED(pawl_attach(NULL, NULL), "pawl_attach");
    CHECK_REFUSED(pawl_get_resume(NULL, &resume), "pawl_get_resume");
    CHECK_REFUSED(pawl_get_resume(run, NULL), "pawl_get_resume");
    CHECK_REFUSED(pawl_step(NULL, &progress, &actions), "pawl_step");
    CHECK(actions == 0);
    CHECK_REFUSED(pawl_step(run, NULL, &actions), "pawl_step");
    CHECK_REFUSED(pawl_step(run, &progress, NULL), "pawl_step");
    CHECK_REFUSED(pawl_epoch_end(NULL, &progress, NULL, 0, &actions), "pawl_epoch_end");
    CHECK_REFUSED(pawl_epoch_end(run, NULL, NULL, 0, &actions), "pawl_epoch_end");
    CHECK_REFUSED(pawl_epoch_end(run, &progress, NULL, 0, NULL), "pawl_epoch_end");
    CHECK_REFUSED(pawl_poll(NULL, PAWL_PHASE_TRAINING, &actions), "pawl_poll");
    CHECK_REFUSED(pawl_poll(run, PAWL_PHASE_TRAINING, NULL), "pawl_poll");
    CHECK_REFUSED(pawl_request_checkpoint(NULL, &actions), "pawl_request_checkpoint");
    CHECK_REFUSED(pawl_request_checkpoint(run, NULL), "pawl_request_checkpoint");
    CHECK_REFUSED(pawl_snapshot_begin(NULL, 1, &image), "pawl_snapshot_begin");
    CHECK(image == NULL);
    CHECK_REFUSED(pawl_snapshot_begin(run, 0, &image), "pawl_snapshot_begin");
    CHECK_REFUSED(pawl_snapshot_begin(run, 1, NULL), "pawl_snapshot_begin");
    CHECK_REFUSED(pawl_snapshot_seal(NULL, NULL, 0), "pawl_snapshot_seal");
    CHECK_REFUSED(pawl_snapshot_seal(run, NULL, 0), "pawl_snapshot_seal");
    CHECK_REFUSED(pawl_snapshot_abort(NULL, "why"), "pawl_snapshot_abort");
    CHECK_REFUSED(pawl_finish(NULL, &actions), "pawl_finish");
    CHECK_REFUSED(pawl_finish(run, NULL), "pawl_finish");
    CHECK_REFUSED(pawl_finish_wait(NULL), "pawl_finish_wait");
    CHECK(pawl_rank(NULL) == 0);
    CHECK(pawl_world_size(NULL) == 1);
    CHECK(pawl_is_attached(NULL) == 0);
    CHECK(strcmp(pawl_inert_reason(NULL), "") != 0);
    pawl_release_resume(NULL);
    pawl_request_stop(NULL);
    pawl_detach(NULL);
    CHECK(none == run);
    return 0;
}

int pawl_abi_check(const char* directory, const void* image, uint64_t image_bytes) {
    pawl_attach_options options = {.struct_size = sizeof options,
                                   .framework = "C11",
                                   .checkpoint_directory = directory,
                                   .job = "abi",
                                   .every_steps = 2,
                                   .every_epochs = 0,
                                   .every_ms = 0,
                                   .keep_last = 2};
    pawl_progress progress = {.struct_size = sizeof progress, .step = 1, .loss = NAN};
    pawl_resume resume = {.struct_size = sizeof resume};
    uint32_t actions = 99;
    pawl_run* run = NULL;

    CHECK(strcmp(pawl_version(), "") != 0);
    CHECK(strcmp(pawl_error_name(PAWL_E_INVALID), "PAWL_E_INVALID") == 0);
    CHECK(pawl_attach(&options, &run) == PAWL_OK);
    CHECK(run != NULL);
    CHECK(strcmp(pawl_last_error(), "") == 0);
    CHECK(pawl_is_attached(run) == 0);
    CHECK(pawl_rank(run) == 0);
    CHECK(pawl_world_size(run) == 1);
    CHECK(strcmp(pawl_inert_reason(run), "") == 0);
    CHECK(pawl_get_resume(run, &resume) == PAWL_OK);
    CHECK(resume.image == NULL);
    pawl_release_resume(run);

    int line = check_refusals(run);
    if (line != 0) return line;

    CHECK(pawl_step(run, &progress, &actions) == PAWL_OK);
    CHECK(actions == 0);
    progress.step = 2;
    CHECK(pawl_step(run, &progress, &actions) == PAWL_OK);
    CHECK(actions == PAWL_TAKE_SNAPSHOT);
    line = save(run, image, image_bytes);
    if (line != 0) return line;

    progress.step = 4;
    progress.epoch = 1;
    CHECK(pawl_epoch_end(run, &progress, NULL, 0, &actions) == PAWL_OK);
    CHECK(pawl_poll(run, PAWL_PHASE_EVALUATION, &actions) == PAWL_OK);
    CHECK(pawl_request_checkpoint(run, &actions) == PAWL_OK);
    CHECK(actions == PAWL_TAKE_SNAPSHOT);
    void* memory = NULL;
    CHECK(pawl_snapshot_begin(run, 100, &memory) == PAWL_OK);
    CHECK(pawl_snapshot_begin(run, 100, &memory) == PAWL_E_INVALID);
    CHECK(memory == NULL);
    CHECK(pawl_request_checkpoint(run, &actions) == PAWL_E_INVALID);
    CHECK(actions == 0);
    CHECK(pawl_snapshot_abort(run, NULL) == PAWL_OK);
    CHECK(pawl_snapshot_begin(run, 100, &memory) == PAWL_OK);
    memset(memory, 0, 100);
    CHECK(pawl_snapshot_seal(run, NULL, 0) == PAWL_E_CORRUPT);
    CHECK(strstr(pawl_last_error(), "torch.save file") != NULL);

    pawl_request_stop(run);
    progress.step = 5;
    CHECK(pawl_step(run, &progress, &actions) == PAWL_OK);
    CHECK(actions == (PAWL_TAKE_SNAPSHOT | PAWL_STOP));
    CHECK(pawl_finish(run, &actions) == PAWL_OK);
    CHECK(actions == PAWL_TAKE_SNAPSHOT);
    line = save(run, image, image_bytes);
    if (line != 0) return line;
    CHECK(pawl_finish_wait(run) == PAWL_OK);
    pawl_detach(run);
    pawl_detach(run);
    CHECK(strstr(pawl_last_error(), "pawl_detach") != NULL);
    CHECK(pawl_step(run, &progress, &actions) == PAWL_E_INVALID);

    CHECK(pawl_attach(&options, &run) == PAWL_OK);
    CHECK(pawl_get_resume(run, &resume) == PAWL_OK);
    CHECK(resume.image != NULL);
    CHECK(resume.image_bytes == image_bytes);
    CHECK(resume.step == 5 && resume.epoch == 1 && resume.sequence != 0);
    pawl_detach(run);
    return 0;
}
