/* pawl.h as a C11 program sees it: compiled without C++, called from client_test.cc. Returns the
 * line of the first check that fails, 0 if all hold. */
#include <pawl/pawl.h>
#include <string.h>

int pawl_abi_check(const char* directory);

#define CHECK(condition)                   \
    do {                                   \
        if (!(condition)) return __LINE__; \
    } while (0)

int pawl_abi_check(const char* directory) {
    pawl_attach_options options = {
        .struct_size = sizeof options, .checkpoint_directory = directory, .every_steps = 2};
    pawl_run* run = NULL;
    CHECK(pawl_attach(&options, &run) == PAWL_OK);
    CHECK(run != NULL);
    CHECK(strcmp(pawl_last_error(), "") == 0);
    CHECK(pawl_is_attached(run) == 0);
    CHECK(pawl_rank(run) == 0);
    CHECK(pawl_world_size(run) == 1);

    pawl_resume resume = {.struct_size = sizeof resume};
    CHECK(pawl_get_resume(run, &resume) == PAWL_OK);
    CHECK(resume.image == NULL);

    uint32_t actions = 99;
    pawl_progress progress = {.struct_size = sizeof progress, .step = 1, .loss = 0.5};
    CHECK(pawl_step(run, &progress, &actions) == PAWL_OK);
    CHECK(actions == 0);
    progress.step = 2;
    CHECK(pawl_step(run, &progress, &actions) == PAWL_OK);
    CHECK(actions == PAWL_TAKE_SNAPSHOT);

    void* image = NULL;
    CHECK(pawl_snapshot_begin(run, 100, &image) == PAWL_OK);
    CHECK(image != NULL);
    memset(image, 0, 100);
    CHECK(pawl_snapshot_seal(run, NULL, 0) == PAWL_E_CORRUPT);
    CHECK(strstr(pawl_last_error(), "torch.save file") != NULL);

    CHECK(pawl_step(NULL, &progress, &actions) == PAWL_E_INVALID);
    CHECK(pawl_step(run, NULL, &actions) == PAWL_E_INVALID);
    CHECK(pawl_attach(&options, NULL) == PAWL_E_INVALID);
    CHECK(strstr(pawl_last_error(), "pawl_attach") != NULL);

    pawl_request_stop(run);
    progress.step = 3;
    CHECK(pawl_step(run, &progress, &actions) == PAWL_OK);
    CHECK(actions == (PAWL_TAKE_SNAPSHOT | PAWL_STOP));
    pawl_detach(run);
    pawl_detach(NULL);
    return 0;
}
