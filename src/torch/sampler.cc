// ShuffledSampler, by itself and behind a DataLoader: see pawl/torch.hpp.
#include "pawl/torch.hpp"

#include <algorithm>

namespace pawl {

ShuffledSampler::ShuffledSampler(std::int64_t size, std::int64_t batch_size, std::uint64_t seed)
    : size_(size), batch_size_(batch_size), seed_(seed) {
    TORCH_CHECK(size > 0 && batch_size > 0, "a sampler needs samples and a batch size");
    shuffle();
}

void ShuffledSampler::shuffle() {
    // A generator of its own: the order depends on nothing else that draws random numbers.
    const at::Generator generator =
        at::detail::createCPUGenerator(seed_ * 0x9E3779B97F4A7C15ULL + epoch_);
    order_ = torch::randperm(size_, generator, at::TensorOptions().dtype(at::kLong));
}

std::optional<torch::Tensor> ShuffledSampler::next() {
    if (position_ >= size_) return std::nullopt;
    const std::int64_t end = std::min(position_ + batch_size_, size_);
    auto batch = order_.slice(/*dim=*/0, position_, end);
    position_ = end;
    begin_requests();
    return batch;
}

void ShuffledSampler::begin_epoch(std::uint64_t epoch) {
    restore(seed_, epoch, 0);
}

void ShuffledSampler::restore(std::uint64_t seed, std::uint64_t epoch, std::int64_t position) {
    seed_ = seed;
    epoch_ = epoch;
    position_ = position;
    begin_requests();
    shuffle();
}

// ---- behind a DataLoader ----
//
//   0        position_          requested_       size_
//   |  handed out |  on their way    |            |
//
// The loader asks ahead of the loop, always on the thread of the loop. What is on its way is known
// by its size alone, and arrives in the order of the requests.

void ShuffledSampler::begin_requests() {
    requested_ = position_;
    on_their_way_.clear();
}

std::optional<std::vector<std::size_t>> ShuffledSampler::request(std::size_t batch_size) {
    if (requested_ >= size_) return std::nullopt;
    const std::int64_t end = std::min(requested_ + static_cast<std::int64_t>(batch_size), size_);
    const auto* const indices = order_.data_ptr<std::int64_t>();
    std::vector<std::size_t> batch(indices + requested_, indices + end);
    on_their_way_.push_back(end - requested_);
    requested_ = end;
    return batch;
}

void ShuffledSampler::hand_out() {
    TORCH_CHECK(!on_their_way_.empty(),
                "a batch arrived that was not asked of this sampler: was the loader made with "
                "for_loader(), and the epoch begun after its last loop?");
    position_ += on_their_way_.front();
    on_their_way_.pop_front();
}

LoaderSampler ShuffledSampler::for_loader() {
    return LoaderSampler(*this);
}

void LoaderSampler::reset(OptionalSize new_size) {
    TORCH_CHECK(!new_size || static_cast<std::int64_t>(*new_size) == sampler_->size(),
                "the size of a sampler is that of its data");
    // A new loop goes on where the last one was left: batches that never arrived are asked for
    // again.
    sampler_->begin_requests();
}

LoaderSampler::OptionalBatch LoaderSampler::next(std::size_t batch_size) {
    auto batch = sampler_->request(batch_size);
    if (!batch) return {};
    return *std::move(batch);
}

void LoaderSampler::save(torch::serialize::OutputArchive& archive) const {
    archive.write("state", torch::tensor({static_cast<std::int64_t>(sampler_->seed()),
                                          static_cast<std::int64_t>(sampler_->epoch()),
                                          sampler_->position()}));
}

void LoaderSampler::load(torch::serialize::InputArchive& archive) {
    torch::Tensor state;
    archive.read("state", state);
    sampler_->restore(static_cast<std::uint64_t>(state[0].item<std::int64_t>()),
                      static_cast<std::uint64_t>(state[1].item<std::int64_t>()),
                      state[2].item<std::int64_t>());
}

}  // namespace pawl
