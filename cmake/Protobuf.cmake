# src/onnx/onnx.proto -> C, when the schema exists.
set(qbound_proto ${CMAKE_CURRENT_SOURCE_DIR}/src/onnx/onnx.proto)
if(EXISTS ${qbound_proto})
  find_program(PROTOC_C NAMES protoc-c REQUIRED)
  set(qbound_proto_dir ${CMAKE_CURRENT_BINARY_DIR}/generated)
  file(MAKE_DIRECTORY ${qbound_proto_dir})
  add_custom_command(
    OUTPUT ${qbound_proto_dir}/onnx.pb-c.c ${qbound_proto_dir}/onnx.pb-c.h
    COMMAND ${PROTOC_C} --c_out=${qbound_proto_dir} --proto_path=${CMAKE_CURRENT_SOURCE_DIR}/src/onnx ${qbound_proto}
    DEPENDS ${qbound_proto})
  target_sources(qbound_objects PRIVATE ${qbound_proto_dir}/onnx.pb-c.c ${qbound_proto_dir}/onnx.pb-c.h)
  target_include_directories(qbound_objects SYSTEM PUBLIC ${qbound_proto_dir})
  set_source_files_properties(${qbound_proto_dir}/onnx.pb-c.c PROPERTIES COMPILE_OPTIONS "-w")
endif()
