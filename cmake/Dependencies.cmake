# Everything comes from Debian packages; see `dev` for the list.
find_package(OpenMP REQUIRED COMPONENTS C)
find_package(ZLIB REQUIRED)
find_package(JPEG REQUIRED)
find_package(PNG REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(CRYPTO REQUIRED IMPORTED_TARGET libcrypto)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(PROTOBUF_C REQUIRED IMPORTED_TARGET libprotobuf-c)
find_path(ARB_INCLUDE_DIR arb.h REQUIRED)
find_library(ARB_LIBRARY NAMES flint-arb arb REQUIRED)
find_library(FLINT_LIBRARY NAMES flint REQUIRED)
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.h REQUIRED)
find_library(DNNL_LIBRARY NAMES dnnl REQUIRED)

# The OpenMP build of OpenBLAS, by its own folder: the pthread build breaks thread and rounding-mode assumptions.
find_library(OPENBLAS_LIBRARY NAMES openblas PATH_SUFFIXES openblas-openmp NO_CMAKE_FIND_ROOT_PATH
             HINTS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE} REQUIRED)
find_path(CBLAS_INCLUDE_DIR cblas.h HINTS /usr/include/${CMAKE_LIBRARY_ARCHITECTURE}
          PATH_SUFFIXES openblas-openmp REQUIRED)

# Its soname is that of every OpenBLAS build, and the system's default may be another one: programs look into that
# folder first. An rpath of the old kind also holds for what LAPACKE loads.
get_filename_component(OPENBLAS_FOLDER ${OPENBLAS_LIBRARY} DIRECTORY)
list(APPEND CMAKE_BUILD_RPATH ${OPENBLAS_FOLDER})
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)
add_link_options(-Wl,--disable-new-dtags)

add_library(qbound_dependencies INTERFACE)
target_include_directories(qbound_dependencies SYSTEM INTERFACE ${ARB_INCLUDE_DIR} ${DNNL_INCLUDE_DIR}
                                                                ${CBLAS_INCLUDE_DIR})
target_link_libraries(
  qbound_dependencies
  INTERFACE ${DNNL_LIBRARY} ${OPENBLAS_LIBRARY} ${ARB_LIBRARY} ${FLINT_LIBRARY} PkgConfig::PROTOBUF_C
            PkgConfig::JANSSON PkgConfig::CRYPTO JPEG::JPEG PNG::PNG ZLIB::ZLIB OpenMP::OpenMP_C m)

if(QBOUND_MPI)
  pkg_check_modules(MPI REQUIRED IMPORTED_TARGET ompi-c)
  target_link_libraries(qbound_dependencies INTERFACE PkgConfig::MPI)
endif()
