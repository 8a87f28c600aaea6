// A LibTorch trainer from outside the tree: `train_torch DIRECTORY` makes one checkpoint.
#include <pawl/torch.hpp>

int main(int count, char** words) {
    if (count != 2) return 2;
    torch::nn::Linear model(2, 1);
    pawl::TorchRunOptions options;
    options.checkpoint_directory = words[1];
    options.every_steps = 1;
    pawl::TorchRun run(options);
    run.add_model(*model);
    return run.step(0.5) ? 0 : 3;
}
