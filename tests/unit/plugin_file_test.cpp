// What is refused before any code of a handler's file runs: by table, over copies of a good
// handler.
#include "common/plugin_file.h"

#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <string>

#include "support/temp_dir.h"

using namespace lope;
namespace fs = std::filesystem;

namespace {

const std::string kGood = LOPE_HANDLERS_BUILD_DIR "/null.so";

std::string good_bytes() { return test::read_file(kGood); }

#if defined(__x86_64__)
constexpr const char* kExpectedElf =
    "expected a 64-bit little-endian ELF shared object for x86-64, found ";
#else
constexpr const char* kExpectedElf =
    "expected a 64-bit little-endian ELF shared object for aarch64, found ";
#endif

// `handlers` inside a private folder, with good.so in it.
struct Folder {
  test::TempDir temp;
  std::string path = temp.file("handlers");

  Folder() {
    fs::create_directory(path);
    fs::permissions(path, fs::perms(0755));
    write("good", good_bytes());
  }
  std::string file(const std::string& name) const { return path + "/" + name + ".so"; }
  void write(const std::string& name, const std::string& bytes) const {
    temp.write("handlers/" + name + ".so", bytes);
    fs::permissions(file(name), fs::perms(0644));
  }
};

// The error for a file of these bytes.
std::string error_for(const std::string& bytes) {
  const Folder folder;
  folder.write("x", bytes);
  const auto found = find_plugin(folder.path, "x");
  if (found) return "accepted";
  // Each refusal names the path.
  CHECK(found.error().find("handler '" + folder.file("x") + "': ") == 0);
  return found.error().substr(found.error().find("': ") + 3);
}

template <typename T>
std::string patched(std::string bytes, std::size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
  return bytes;
}

}  // namespace

TEST_CASE("a good handler is found with what its file says", "[unit][plugin_file]") {
  const Folder folder;
  const auto found = find_plugin(folder.path, "good");
  REQUIRE(found);
  CHECK(found->path == fs::canonical(folder.file("good")).string());
  CHECK(found->struct_size >= kSmallestPluginTable);
  CHECK(found->abi_minor == 0);
  CHECK(check_plugin(folder.file("good")));
  for (const char* name : {"log", "dots", "null"})
    CHECK(find_plugin(LOPE_HANDLERS_BUILD_DIR, name));
}

TEST_CASE("a name that is no plain file name is refused", "[unit][plugin_file]") {
  const Folder folder;
  fs::create_directory(folder.path + "/sub");
  folder.temp.write("handlers/sub/x.so", good_bytes());
  folder.temp.write("outside.so", good_bytes());
  const std::string name =
      GENERATE(as<std::string>(), "", ".", "..", "../outside", "sub/x", "/etc/passwd", "./good",
               "sub/../good", std::string("good\0.so", 8));
  const auto found = find_plugin(folder.path, name);
  REQUIRE_FALSE(found);
  CHECK(found.error().find("expected a plain file name, without '/' and not '.' or '..', found ") !=
        std::string::npos);
}

TEST_CASE("what is not there, or is no file, is refused", "[unit][plugin_file]") {
  struct Row {
    const char* name;
    std::function<void(const Folder&)> prepare;
    const char* error;
  };
  const auto row = GENERATE(values<Row>({
      {"missing", [](const Folder&) {}, "expected a file, found none"},
      {"good.so", [](const Folder&) {}, "expected a file (the name goes without .so), found none"},
      {"folder", [](const Folder& f) { fs::create_directory(f.file("folder")); },
       "expected a regular file, found a folder"},
      {"fifo", [](const Folder& f) { REQUIRE(::mkfifo(f.file("fifo").c_str(), 0644) == 0); },
       "expected a regular file, found a fifo"},
      {"dangling", [](const Folder& f) { fs::create_symlink("nowhere", f.file("dangling")); },
       "expected a file, found none"},
      {"loop", [](const Folder& f) { fs::create_symlink("loop.so", f.file("loop")); },
       "expected a file, found realpath: Too many levels of symbolic links"},
  }));
  const Folder folder;
  row.prepare(folder);
  const auto found = find_plugin(folder.path, row.name);
  REQUIRE_FALSE(found);
  CHECK(found.error() == "handler '" + folder.file(row.name) + "': " + row.error);
}

TEST_CASE("a folder of handlers that is not there is named", "[unit][plugin_file]") {
  const auto found = find_plugin("/nowhere/at/all", "x");
  REQUIRE_FALSE(found);
  CHECK(found.error() ==
        "handler '/nowhere/at/all/x.so': expected the folder '/nowhere/at/all', found none");
}

TEST_CASE("a link must stay inside the folder", "[unit][plugin_file]") {
  const Folder folder;
  fs::create_symlink("good.so", folder.file("inside"));
  const auto inside = find_plugin(folder.path, "inside");
  REQUIRE(inside);
  CHECK(inside->path == fs::canonical(folder.file("good")).string());

  // A folder whose name merely starts the same is outside too.
  fs::create_directory(folder.path + "-old");
  folder.temp.write("handlers-old/x.so", good_bytes());
  fs::create_symlink(folder.path + "-old/x.so", folder.file("outside"));
  const auto outside = find_plugin(folder.path, "outside");
  REQUIRE_FALSE(outside);
  CHECK(outside.error() == "handler '" + folder.file("outside") + "': expected a file inside '" +
                               fs::canonical(folder.path).string() + "', found a link to '" +
                               fs::canonical(folder.path + "-old/x.so").string() + "'");

  // The folder itself may be a link.
  fs::create_directory_symlink(folder.path, folder.temp.file("link"));
  CHECK(find_plugin(folder.temp.file("link"), "good"));
}

TEST_CASE("a file or folder that others may write to is refused", "[unit][plugin_file]") {
  struct Row {
    bool on_folder;
    mode_t mode;
    const char* found;  // nullptr: accepted
  };
  const auto row = GENERATE(values<Row>({
      {false, 0644, nullptr},
      {false, 0400, nullptr},
      {false, 0664, nullptr},  // the group is our own
      {false, 0646, "mode 0646"},
      {false, 0666, "mode 0666"},
      {true, 0755, nullptr},
      {true, 0775, nullptr},
      {true, 0757, "mode 0757"},
      {true, 0777, "mode 0777"},
  }));
  const Folder folder;
  const std::string path = row.on_folder ? folder.path : folder.file("good");
  REQUIRE(::chmod(path.c_str(), row.mode) == 0);
  const auto found = find_plugin(folder.path, "good");
  INFO(std::oct << row.mode);
  CHECK(found.ok() == (row.found == nullptr));
  if (found || row.found == nullptr) return;
  const std::string what =
      row.on_folder ? "the folder '" + fs::canonical(path).string() + "'" : "the file";
  CHECK(found.error().find("': expected " + what + " not to be writable by others, found " +
                           row.found) != std::string::npos);
}

TEST_CASE("a folder further up counts as well", "[unit][plugin_file]") {
  const Folder folder;
  REQUIRE(::chmod(folder.temp.path().c_str(), 0777) == 0);
  const auto found = find_plugin(folder.path, "good");
  REQUIRE_FALSE(found);
  CHECK(found.error().find("expected the folder '" + fs::canonical(folder.temp.path()).string() +
                           "' not to be writable by others, found mode 0777") != std::string::npos);
  if (::geteuid() == 0) {
    // Sticky and root's, as the temporary folder is: nobody else can replace what is in it.
    REQUIRE(::chmod(folder.temp.path().c_str(), 01777) == 0);
    CHECK(find_plugin(folder.path, "good"));
  }
}

TEST_CASE("a file or folder of another user or group is refused", "[unit][plugin_file]") {
  if (::geteuid() != 0) {
    WARN("only root can give files away; not tested");
    return;
  }
  struct Row {
    bool on_folder;
    uid_t owner;
    gid_t group;
    mode_t mode;
    const char* error;  // nullptr: accepted
  };
  const auto row = GENERATE(values<Row>({
      {false, 1234, 0, 0644, "expected the file to belong to root, found owner 1234"},
      {true, 1234, 0, 0755, "to belong to root, found owner 1234"},
      {true, 1234, 0, 01777, "to belong to root, found owner 1234"},
      {false, 0, 1234, 0644, nullptr},
      {false, 0, 1234, 0664,
       "expected the file not to be writable by others, found mode 0664, group 1234"},
      {true, 0, 1234, 0775, "not to be writable by others, found mode 0775, group 1234"},
  }));
  const Folder folder;
  const std::string path = row.on_folder ? folder.path : folder.file("good");
  REQUIRE(::chown(path.c_str(), row.owner, row.group) == 0);
  REQUIRE(::chmod(path.c_str(), row.mode) == 0);
  const auto found = find_plugin(folder.path, "good");
  CHECK(found.ok() == (row.error == nullptr));
  if (!found && row.error != nullptr) CHECK(found.error().find(row.error) != std::string::npos);
}

TEST_CASE("a file that is no ELF for this machine is refused", "[unit][plugin_file]") {
  struct Row {
    const char* what;
    std::function<std::string(std::string)> change;
    const char* found;
  };
  const auto row = GENERATE(values<Row>({
      {"empty", [](std::string) { return std::string(); }, "no ELF file"},
      {"text", [](std::string) { return std::string("#!/bin/sh\necho hello\n"); }, "no ELF file"},
      {"zeros", [](std::string) { return std::string(4096, '\0'); }, "no ELF file"},
      {"magic alone", [](std::string good) { return good.substr(0, 4); }, "a truncated ELF file"},
      {"half a header", [](std::string good) { return good.substr(0, 40); },
       "a truncated ELF file"},
      {"header alone", [](std::string good) { return good.substr(0, 64); },
       "a truncated or damaged one"},
      {"half the file", [](std::string good) { return good.substr(0, good.size() / 8); },
       "a truncated or damaged one"},
      {"32 bits",
       [](std::string good) { return patched<unsigned char>(good, EI_CLASS, ELFCLASS32); },
       "a 32-bit one"},
      {"no class", [](std::string good) { return patched<unsigned char>(good, EI_CLASS, 9); },
       "ELF class 9"},
      {"big-endian",
       [](std::string good) { return patched<unsigned char>(good, EI_DATA, ELFDATA2MSB); },
       "a big-endian one"},
      {"RISC-V",
       [](std::string good) {
         return patched<std::uint16_t>(good, offsetof(Elf64_Ehdr, e_machine), EM_RISCV);
       },
       "one for riscv"},
      {"a machine of no name",
       [](std::string good) {
         return patched<std::uint16_t>(good, offsetof(Elf64_Ehdr, e_machine), 0x7777);
       },
       "one for machine 30583"},
      {"a program",
       [](std::string good) {
         return patched<std::uint16_t>(good, offsetof(Elf64_Ehdr, e_type), ET_EXEC);
       },
       "ELF type 2"},
      {"program headers beyond the end",
       [](std::string good) {
         return patched<std::uint64_t>(good, offsetof(Elf64_Ehdr, e_phoff), UINT64_MAX - 8);
       },
       "a truncated or damaged one"},
      {"no program headers",
       [](std::string good) {
         return patched<std::uint16_t>(good, offsetof(Elf64_Ehdr, e_phnum), 0);
       },
       "a truncated or damaged one"},
      {"program headers of another size",
       [](std::string good) {
         return patched<std::uint16_t>(good, offsetof(Elf64_Ehdr, e_phentsize), 1);
       },
       "a truncated or damaged one"},
  }));
  INFO(row.what);
  CHECK(error_for(row.change(good_bytes())) == std::string(kExpectedElf) + row.found);
}

TEST_CASE("stripped section headers do not matter", "[unit][plugin_file]") {
  std::string bytes = good_bytes();
  bytes = patched<std::uint64_t>(bytes, offsetof(Elf64_Ehdr, e_shoff), 0);
  bytes = patched<std::uint16_t>(bytes, offsetof(Elf64_Ehdr, e_shnum), 0);
  CHECK(error_for(bytes) == "accepted");
}

TEST_CASE("a table that this host cannot serve is refused from the file", "[unit][plugin_file]") {
  struct Row {
    const char* name;
    const char* error;
  };
  const auto row = GENERATE(values<Row>({
      {"no_symbol",
       "expected the symbol lope_plugin_v1 (this Lope speaks ABI 1), found no lope_plugin symbol"},
      {"other_major",
       "expected the symbol lope_plugin_v1 (this Lope speaks ABI 1), found lope_plugin_v2"},
      {"newer_minor", "expected a handler for host ABI 1.0, found one that asks for host ABI 1.1"},
      {"zero_table", "expected a constant-initialised lope_plugin_v1, found struct_size 0"},
      {"dynamic_table", "expected a constant-initialised lope_plugin_v1, found struct_size 0"},
      {"short_table",
       "expected lope_plugin_v1 with struct_size of at least 64, found struct_size 16"},
      {"function_symbol", "expected lope_plugin_v1 to be data, found a function"},
  }));
  const auto found = find_plugin(LOPE_TEST_HANDLERS_DIR, row.name);
  REQUIRE_FALSE(found);
  CHECK(found.error() == "handler '" + fs::canonical(LOPE_TEST_HANDLERS_DIR).string() + "/" +
                             row.name + ".so': " + row.error);
}

TEST_CASE("a file cut anywhere is refused or accepted, never a crash", "[unit][plugin_file]") {
  const std::string good = good_bytes();
  const Folder folder;
  int refused = 0;
  // Every length over the headers, then steps, so that each table is cut somewhere.
  for (std::size_t size = 0; size < good.size(); size += size < 2048 ? 1 : 61) {
    folder.write("x", good.substr(0, size));
    if (!find_plugin(folder.path, "x")) ++refused;
  }
  CHECK(refused > 2048);
}

TEST_CASE("a file with bytes changed anywhere is refused or accepted, never a crash",
          "[unit][plugin_file]") {
  const std::string good = good_bytes();
  const Folder folder;
  std::mt19937 random(20240601);  // the same files in every run
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = good;
    // The first pages hold every header and table that is read; the rest is code and debug text.
    const std::size_t reach = round % 3 == 0   ? 64
                              : round % 3 == 1 ? 1024
                                               : std::min<std::size_t>(4096, good.size());
    const int changes = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < changes; ++i) {
      const unsigned char values[] = {0, 1, 0x7f, 0x80, 0xff, static_cast<unsigned char>(random())};
      bytes[random() % reach] = static_cast<char>(values[random() % 6]);
    }
    folder.write("x", bytes);
    if (!find_plugin(folder.path, "x")) ++refused;
  }
  CHECK(refused > 100);
}

TEST_CASE("hostile numbers in the dynamic section are held against the file",
          "[unit][plugin_file]") {
  const std::string good = good_bytes();
  Elf64_Ehdr header;
  std::memcpy(&header, good.data(), sizeof header);
  std::size_t dynamic_at = 0;
  std::size_t dynamic_size = 0;
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr entry;
    std::memcpy(&entry, good.data() + header.e_phoff + static_cast<std::size_t>(i) * sizeof entry,
                sizeof entry);
    if (entry.p_type != PT_DYNAMIC) continue;
    dynamic_at = entry.p_offset;
    dynamic_size = entry.p_filesz;
  }
  REQUIRE(dynamic_at != 0);
  const std::int64_t tag =
      GENERATE(as<std::int64_t>(), DT_SYMTAB, DT_STRTAB, DT_STRSZ, DT_GNU_HASH, DT_SYMENT);
  const std::uint64_t value = GENERATE(as<std::uint64_t>(), 0, 1, 0xffff, 0x7fffffff, 0xffffffff,
                                       UINT64_MAX / 2, UINT64_MAX - 16, UINT64_MAX);
  std::string bytes = good;
  bool patched_one = false;
  for (std::size_t at = dynamic_at; at < dynamic_at + dynamic_size; at += sizeof(Elf64_Dyn)) {
    Elf64_Dyn entry;
    std::memcpy(&entry, bytes.data() + at, sizeof entry);
    if (entry.d_tag != tag) continue;
    entry.d_un.d_val = value;
    std::memcpy(bytes.data() + at, &entry, sizeof entry);
    patched_one = true;
  }
  REQUIRE(patched_one);
  INFO("tag " << tag << " value " << value);
  CHECK(error_for(bytes) != "accepted");
}
