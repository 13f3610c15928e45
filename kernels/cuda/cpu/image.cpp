// Reads images of kernels, as far as a launch depends on them. Sources: ELF-64 (System V ABI, chapter 4); names of sections and
// the capability in the lowest byte of the flags as cubins of CUDA 12 have them.
#include "image.h"
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace stand_in {
namespace {

struct Header {
    unsigned char magic[4], more[12];
    uint16_t type, machine;
    uint32_t version;
    uint64_t entry, programs, sections;
    uint32_t flags;
    uint16_t size, program_size, program_count, section_size, section_count, names;
};
struct Section {
    uint32_t name, type;
    uint64_t flags, address, offset, size;
    uint32_t link, info;
    uint64_t align, entry_size;
};
static_assert(sizeof(Header) == 64 && sizeof(Section) == 64);
constexpr uint16_t CUDA = 190;

bool begins(const std::string& text, const char* with) { return text.compare(0, strlen(with), with) == 0; }

void set_capability(Image& to, int number) { to.major = number / 10, to.minor = number % 10; }

bool read_cubin(const char* data, Image& to) {
    Header header;
    memcpy(&header, data, sizeof header);
    if (header.machine != CUDA || header.section_size != sizeof(Section) || header.names >= header.section_count) return false;
    set_capability(to, int(header.flags & 255));
    auto section = [&](unsigned i) {
        Section s;
        memcpy(&s, data + header.sections + i * sizeof s, sizeof s);
        return s;
    };
    const char* names = data + section(header.names).offset;
    for (unsigned i = 0; i < header.section_count; ++i) {
        const Section s = section(i);
        const std::string name = names + s.name;
        if (begins(name, ".text.")) to.kernels.emplace(name.substr(6), 0);
        // Hopper's linker counts 1 KiB in that the system takes of every block.
        const unsigned reserved = to.major >= 9 && s.size >= 1024 ? 1024 : 0;
        if (begins(name, ".nv.shared.")) to.kernels[name.substr(11)] = unsigned(s.size) - reserved;
    }
    return true;
}

bool read_ptx(const char* data, Image& to) {
    const char* target = strstr(data, ".target sm_");
    if (!target) return false;
    to.ptx = true;
    set_capability(to, atoi(target + strlen(".target sm_")));
    for (const char* at = data; (at = strstr(at, ".entry ")); ) {
        at += strlen(".entry ");
        to.kernels.emplace(std::string(at, strcspn(at, "( \n")), 0);
    }
    return true;
}

}  // namespace

bool read_image(const void* data, Image& to) {
    const char* bytes = static_cast<const char*>(data);
    return memcmp(bytes, "\x7f" "ELF", 4) ? read_ptx(bytes, to) : read_cubin(bytes, to);
}

}  // namespace stand_in
