/* pawl.h: the trainer's side of pawl, as a C11 library (libpawl).
 *
 * A trainer attaches, reports its steps, and lays its state into memory when it is asked to. Under
 * pawld (PAWL_SOCKET is set) that memory is an arena of the daemon, which makes it durable while
 * training goes on. Without a daemon the same calls write the same checkpoints in this process
 * (standalone).
 *
 *   pawl_run* run;
 *   if (pawl_attach(&options, &run) != PAWL_OK) die(pawl_last_error());
 *   pawl_resume resume = {.struct_size = sizeof resume};
 *   pawl_get_resume(run, &resume);            // resume.image: an ordinary torch.save file, or NULL
 *   for (step = resume.step; step < last;) {
 *       train();
 *       pawl_progress progress = {.struct_size = sizeof progress, .step = ++step, .loss = loss};
 *       uint32_t actions;
 *       pawl_step(run, &progress, &actions);
 *       if (actions & PAWL_TAKE_SNAPSHOT) {
 *           // pawl_snapshot_begin, lay out the image, pawl_snapshot_seal
 *       }
 *       if (actions & PAWL_STOP) break;
 *   }
 *
 * Errors: functions return PAWL_OK (0), PAWL_SKIPPED (1), or a negative pawl_error;
 * pawl_last_error() says which call, what was tried, why it failed and what happens now. Only
 * pawl_attach can fail for reasons that should end a trainer. Afterwards a lost daemon makes the
 * run inert: the call that notices returns PAWL_E_DISCONNECTED, once; from then on steps cost
 * nothing, no snapshot is asked for, training continues.
 *
 * Threads: any number of runs in any threads; on one run one call at a time. A call that meets
 * another one on its run returns PAWL_E_BUSY and does nothing. pawl_request_stop, pawl_version,
 * pawl_error_name, pawl_rank, pawl_world_size and pawl_is_attached may be called at any time.
 *
 * Fork: a child (a data-loader worker) has a copy of its parent's run. Its calls do nothing and
 * return PAWL_SKIPPED; its end, however it comes, and its pawl_detach leave the parent's run as it
 * is.
 *
 * The library starts no thread, installs no signal handler, prints nothing, never exits, and lets
 * no exception out. Call by call: docs/client.md.
 */
#ifndef PAWL_PAWL_H
#define PAWL_PAWL_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define PAWL_API __attribute__((visibility("default")))
#else
#define PAWL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pawl_run pawl_run;

enum pawl_error {
    PAWL_OK = 0,
    /* Nothing was done, and training goes on: no free slot, an inert run, a forked child. */
    PAWL_SKIPPED = 1,
    PAWL_E_INVALID = -1,      /* an argument, a variable, or the order of calls */
    PAWL_E_NOT_FOUND = -2,    /* a directory or file that should be there */
    PAWL_E_CORRUPT = -3,      /* no valid checkpoint is left; an image that is no torch.save file */
    PAWL_E_UNSUPPORTED = -4,  /* a newer format; another number of ranks */
    PAWL_E_NO_SPACE = -5,     /* of disk or of memory */
    PAWL_E_IO = -6,           /* the file system says no */
    PAWL_E_BUSY = -7,         /* another pawl has the directory; another call has the run */
    PAWL_E_DISCONNECTED = -8, /* pawld is gone, or was given up */
    PAWL_E_INTERNAL = -9      /* a mistake of libpawl's own */
};

/* Bits of `actions`. */
enum pawl_action {
    PAWL_TAKE_SNAPSHOT = 1, /* now, of the state as it is after the reported step */
    PAWL_STOP = 2           /* the newest state is durable: leave the training loop and exit */
};

enum pawl_phase { PAWL_PHASE_TRAINING = 1, PAWL_PHASE_EVALUATION = 2 };

/* All structs begin with their size, set by the caller (sizeof), so that they can grow: an older
 * caller's is shorter, a newer one's longer, and what both know is used. Zero means "default". A
 * size that no pawl.h can have set is PAWL_E_INVALID. */
typedef struct pawl_attach_options {
    size_t struct_size;
    const char* framework; /* for the manifest: "LibTorch 1.13.1" */
    /* Used in standalone mode only; each can also be set by the environment, which wins. */
    const char* checkpoint_directory; /* PAWL_CHECKPOINT_DIRECTORY; default "checkpoints" */
    const char* job;                  /* PAWL_JOB; default "standalone" */
    uint64_t every_steps;             /* PAWL_EVERY_STEPS */
    uint64_t every_epochs;            /* PAWL_EVERY_EPOCHS */
    uint64_t every_ms;                /* PAWL_EVERY_MS; default 600000 if no cadence is set */
    uint32_t keep_last;               /* PAWL_KEEP_LAST; default 3 */
} pawl_attach_options;

typedef struct pawl_resume {
    size_t struct_size;
    const void* image; /* the rank's file, read-only; NULL: begin at step 0. Valid until
                          pawl_release_resume */
    uint64_t image_bytes;
    uint64_t sequence; /* of the checkpoint */
    uint64_t step;     /* optimizer steps completed */
    uint64_t epoch;    /* epochs completed */
} pawl_resume;

typedef struct pawl_progress {
    size_t struct_size;
    uint64_t step;  /* optimizer steps completed, of the whole run */
    uint64_t epoch; /* epochs completed */
    double loss;    /* NaN: none */
} pawl_progress;

typedef struct pawl_metric {
    const char* name;
    double value;
} pawl_metric;

/* "0.1.0" */
PAWL_API const char* pawl_version(void);
/* The text of this thread's last call, if that did not return PAWL_OK; else "". Valid until the
 * thread's next call. */
PAWL_API const char* pawl_last_error(void);
/* "PAWL_E_INVALID"; never NULL. */
PAWL_API const char* pawl_error_name(int code);

/* Connects, waits for the daemon's verdict on what to resume from, and returns the run. Blocks
 * while checkpoints are verified. `options` may be NULL. On failure *run is NULL. */
PAWL_API int pawl_attach(const pawl_attach_options* options, pawl_run** run);
/* Ends the run. NULL is allowed; a second time does nothing. A snapshot that was begun and not
 * sealed is dropped. */
PAWL_API void pawl_detach(pawl_run* run);

PAWL_API int pawl_rank(const pawl_run* run);
PAWL_API int pawl_world_size(const pawl_run* run);
/* 1 under a daemon, 0 standalone. */
PAWL_API int pawl_is_attached(const pawl_run* run);
/* "" while the run works; else why it does not ("pawld closed the connection"). Valid until
 * pawl_detach. */
PAWL_API const char* pawl_inert_reason(const pawl_run* run);

PAWL_API int pawl_get_resume(const pawl_run* run, pawl_resume* resume);
/* Unmaps the image, once it has been read. */
PAWL_API void pawl_release_resume(pawl_run* run);

/* After each optimizer step: one write to shared memory and one atomic read; no system call. */
PAWL_API int pawl_step(pawl_run* run, const pawl_progress* progress, uint32_t* actions);
/* After the last step of an epoch: `progress->epoch` counts the epoch that just ended. */
PAWL_API int pawl_epoch_end(pawl_run* run, const pawl_progress* progress,
                            const pawl_metric* metrics, size_t metric_count, uint32_t* actions);
/* Between steps, where the state is as after the last one (evaluation, say): may ask for a snapshot
 * too. */
PAWL_API int pawl_poll(pawl_run* run, enum pawl_phase phase, uint32_t* actions);

/* A checkpoint without waiting for the cadence, between steps. One rank, or none of a daemon's:
 * *actions has PAWL_TAKE_SNAPSHOT, of the state as it is. Several ranks: the daemon names the next
 * step that none of them has completed, at which pawl_step asks each of them; it is enough that one
 * calls. PAWL_SKIPPED: there will be none, the text says why; *actions may have PAWL_STOP. Blocks
 * for the daemon's answer. */
PAWL_API int pawl_request_checkpoint(pawl_run* run, uint32_t* actions);

/* Memory for an image of exactly `bytes`, writable until it is sealed or aborted.
 * PAWL_SKIPPED: there is none, go on training. */
PAWL_API int pawl_snapshot_begin(pawl_run* run, uint64_t bytes, void** image);
/* The image is complete: a torch.save file whose CRCs may be zero. Under a daemon a stray write
 * to it faults from here on. Standalone, this writes and commits the checkpoint before it returns.
 */
PAWL_API int pawl_snapshot_seal(pawl_run* run, const pawl_metric* metrics, size_t metric_count);
/* Drops a snapshot that was begun, or could not even be: `why` is reported. */
PAWL_API int pawl_snapshot_abort(pawl_run* run, const char* why);

/* Training is complete. Blocks until all ranks are here; may ask for a last snapshot. Then
 * pawl_finish_wait blocks until the final checkpoint is durable. */
PAWL_API int pawl_finish(pawl_run* run, uint32_t* actions);
PAWL_API int pawl_finish_wait(pawl_run* run);

/* Asks the run to take a snapshot and stop at its next step, as a drain would. Standalone only
 * (under a daemon, the daemon drains). Async-signal-safe: meant for a SIGTERM handler. */
PAWL_API void pawl_request_stop(pawl_run* run);

#ifdef __cplusplus
}
#endif

#endif
