# The command, the library with its header and pkg-config file, and the manual page. Everything finds its parts
# relative to itself, so the prefix may be chosen at install time (cmake --install .. --prefix ..).
install(TARGETS qbound LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/qbound DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET qbound_cli)
  set_target_properties(qbound_cli PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
  install(TARGETS qbound_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

file(RELATIVE_PATH qbound_prefix_from_pc /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(cmake/qbound.pc.in qbound.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/qbound.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES docs/qbound.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
