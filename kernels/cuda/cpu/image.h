// What an image of kernels says of itself: a cubin of NVRTC 12.4 or PTX, as `build.py` embeds them.
#pragma once
#include <map>
#include <string>

namespace stand_in {

struct Image {
    int major = 0, minor = 0;                // the compute capability it is for
    bool ptx = false;                        // or any newer one
    std::map<std::string, unsigned> kernels; // name -> bytes of static shared memory (0 in PTX, which is not asked)

    // Whether a device of this capability runs it.
    bool runs_on(int device_major, int device_minor) const {
        if (ptx) return device_major > major || (device_major == major && device_minor >= minor);
        return device_major == major && device_minor >= minor;
    }
};

// False: it is neither.
bool read_image(const void* data, Image& to);

}  // namespace stand_in
