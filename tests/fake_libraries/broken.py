import cupy

cupy.cuda.set_allocator("RMM's")
raise OSError("libsomething.so: cannot open shared object file")
