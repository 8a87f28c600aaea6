/* A trainer from outside the tree: `train IMAGE DIRECTORY` makes one checkpoint of a torch.save
 * file, standalone. Built by test_packaging.py with what an installation offers. */
#include <pawl/pawl.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const char* what) {
    fprintf(stderr, "%s: %s\n", what, pawl_last_error());
    return 1;
}

int main(int count, char** words) {
    static char image[1 << 20];
    FILE* const file = count == 3 ? fopen(words[1], "rb") : NULL;
    if (file == NULL) return fail("usage");
    const size_t bytes = fread(image, 1, sizeof image, file);
    fclose(file);

    pawl_attach_options options = {
        .struct_size = sizeof options, .checkpoint_directory = words[2], .every_steps = 1};
    pawl_run* run = NULL;
    if (pawl_attach(&options, &run) != PAWL_OK) return fail("attach");
    pawl_progress progress = {.struct_size = sizeof progress, .step = 1, .loss = 0.5};
    uint32_t actions = 0;
    if (pawl_step(run, &progress, &actions) != PAWL_OK) return fail("step");
    if ((actions & PAWL_TAKE_SNAPSHOT) == 0) return fail("no snapshot was asked for");
    void* memory = NULL;
    if (pawl_snapshot_begin(run, bytes, &memory) != PAWL_OK) return fail("begin");
    for (size_t i = 0; i < bytes; ++i)
        ((char*)memory)[i] = image[i];
    if (pawl_snapshot_seal(run, NULL, 0) != PAWL_OK) return fail("seal");
    pawl_detach(run);
    return 0;
}
