// The same trainer in C++17: see train.c.
#include <pawl/pawl.hpp>

#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>

int main(int count, char** words) {
    if (count != 3) return 2;
    std::ifstream file(words[1], std::ios::binary);
    const std::string image((std::istreambuf_iterator<char>(file)), {});
    try {
        pawl_attach_options options{};
        options.struct_size = sizeof options;
        options.checkpoint_directory = words[2];
        options.every_steps = 1;
        pawl::Run run(options);
        if (!run.step(1, 0, 0.5).take_snapshot) return 3;
        std::memcpy(run.snapshot_begin(image.size()), image.data(), image.size());
        if (!run.snapshot_seal({{"accuracy", 0.5}})) throw pawl::RunError(0, pawl_last_error());
    } catch (const std::exception& error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
    return 0;
}
