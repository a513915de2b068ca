#include "common/plugin_file.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "common/fd.h"
#include "common/text.h"

namespace lope {

namespace {

constexpr std::string_view kSymbolPrefix = "lope_plugin_v";
constexpr std::string_view kSymbol = "lope_plugin_v1";

// Far beyond any real handler; keeps a hostile file from making us allocate.
constexpr std::uint64_t kMaxTableBytes = 64ull * 1024 * 1024;

#if defined(__x86_64__)
constexpr std::uint16_t kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr std::uint16_t kMachine = EM_AARCH64;
#else
#error "Lope runs on x86-64 and aarch64"
#endif

Error refusal(std::string_view path, std::string_view expected, std::string_view found) {
  return Error{"handler '" + escape(path, PATH_MAX) + "': expected " + std::string(expected) +
               ", found " + std::string(found)};
}

std::string quoted(std::string_view text) { return "'" + escape(text, 256) + "'"; }

std::string machine_name(std::uint16_t machine) {
  switch (machine) {
    case EM_386: return "i386";
    case EM_ARM: return "arm";
    case EM_X86_64: return "x86-64";
    case EM_AARCH64: return "aarch64";
    case EM_PPC64: return "ppc64";
    case EM_S390: return "s390";
    case EM_RISCV: return "riscv";
    default: return "machine " + std::to_string(machine);
  }
}

std::string file_kind(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a fifo";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "something else";
}

std::string octal(mode_t mode) {
  char text[16];
  std::snprintf(text, sizeof text, "%04o", static_cast<unsigned>(mode & 07777));
  return text;
}

// ---- Who may write to it -------------------------------------------------------------------

// The group bits do no harm when the group is root's or our own.
bool writable_by_others(const struct stat& status) {
  if ((status.st_mode & S_IWOTH) != 0) return true;
  return (status.st_mode & S_IWGRP) != 0 && status.st_gid != 0 && status.st_gid != ::getegid();
}

// `subject` is the handler's path, `path` the file or folder looked at.
Result<void> check_ownership(const std::string& subject, const std::string& path,
                             const struct stat& status) {
  const std::string what = path == subject ? std::string("the file") : "the folder " + quoted(path);
  if (status.st_uid != 0 && status.st_uid != ::geteuid()) {
    std::string owners = "root";
    if (::geteuid() != 0) owners += " or user " + std::to_string(::geteuid());
    return refusal(subject, what + " to belong to " + owners,
                   "owner " + std::to_string(status.st_uid));
  }
  // In a sticky folder of root's, nobody else can replace what is ours.
  const bool sticky =
      S_ISDIR(status.st_mode) && (status.st_mode & S_ISVTX) != 0 && status.st_uid == 0;
  if (!sticky && writable_by_others(status)) {
    return refusal(subject, what + " not to be writable by others",
                   "mode " + octal(status.st_mode) + ", group " + std::to_string(status.st_gid));
  }
  return {};
}

Result<void> check_parents(const std::string& path) {
  std::size_t slash = path.rfind('/');
  while (slash != std::string::npos) {
    const std::string folder = slash == 0 ? "/" : path.substr(0, slash);
    struct stat status {};
    if (::lstat(folder.c_str(), &status) != 0) {
      const int error = errno;
      return refusal(path, "the folder " + quoted(folder), errno_text("lstat", error));
    }
    if (auto checked = check_ownership(path, folder, status); !checked) return checked;
    slash = slash == 0 ? std::string::npos : path.rfind('/', slash - 1);
  }
  return {};
}

Result<std::string> resolve(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(path.c_str(), nullptr),
                                                             &std::free);
  if (!resolved) return Error{errno == ENOENT ? "none" : errno_text("realpath", errno)};
  return std::string(resolved.get());
}

// ---- What its ELF says ---------------------------------------------------------------------

// The file, read piece by piece. Nothing in it is believed: each offset is held against its size.
class ElfFile {
 public:
  ElfFile(int fd, std::uint64_t size) : fd_(fd), size_(size) {}

  // False when the range is not all inside the file, or cannot be read.
  bool read(std::uint64_t offset, void* target, std::uint64_t size) const {
    if (offset > size_ || size > size_ - offset) return false;
    auto* bytes = static_cast<char*>(target);
    while (size > 0) {
      const ssize_t n = ::pread(fd_, bytes, size, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      bytes += n;
      offset += static_cast<std::uint64_t>(n);
      size -= static_cast<std::uint64_t>(n);
    }
    return true;
  }

  template <typename T>
  std::optional<std::vector<T>> read_array(std::uint64_t offset, std::uint64_t count) const {
    if (count > kMaxTableBytes / sizeof(T)) return std::nullopt;
    if (offset > size_ || count * sizeof(T) > size_ - offset) return std::nullopt;
    std::vector<T> values(count);
    if (!read(offset, values.data(), count * sizeof(T))) return std::nullopt;
    return values;
  }

 private:
  const int fd_;
  const std::uint64_t size_;
};

// Where the loaded segments put things: address to offset. Addresses are what the loader goes by,
// so section headers, which may be stripped or lie, are never looked at.
class Segments {
 public:
  explicit Segments(const std::vector<Elf64_Phdr>& headers) {
    for (const Elf64_Phdr& header : headers)
      if (header.p_type == PT_LOAD) loads_.push_back(header);
  }

  // Nothing when [address, address + size) is not all from the file: it is elsewhere, or starts as
  // zeros.
  std::optional<std::uint64_t> offset_of(std::uint64_t address, std::uint64_t size) const {
    for (const Elf64_Phdr& load : loads_) {
      if (address < load.p_vaddr) continue;
      const std::uint64_t inside = address - load.p_vaddr;
      if (inside > load.p_filesz || size > load.p_filesz - inside) continue;
      if (load.p_offset > UINT64_MAX - inside) continue;
      return load.p_offset + inside;
    }
    return std::nullopt;
  }

  // The part of a segment that its file does not fill: zeros until something writes to it.
  bool is_zeroed(std::uint64_t address) const {
    return std::any_of(loads_.begin(), loads_.end(), [&](const Elf64_Phdr& load) {
      return address >= load.p_vaddr && address - load.p_vaddr >= load.p_filesz &&
             address - load.p_vaddr < load.p_memsz;
    });
  }

 private:
  std::vector<Elf64_Phdr> loads_;
};

struct Dynamic {
  std::uint64_t symbols = 0, strings = 0, strings_size = 0, hash = 0, gnu_hash = 0;
  std::vector<std::uint64_t> run_paths;  // in the strings
};

// How many entries the dynamic symbol table has; its length stands nowhere but in the hash tables.
std::optional<std::uint64_t> symbol_count(const ElfFile& file, const Segments& segments,
                                          const Dynamic& dynamic) {
  if (dynamic.hash != 0) {
    std::array<std::uint32_t, 2> head{};  // buckets, symbols
    const auto offset = segments.offset_of(dynamic.hash, sizeof head);
    if (!offset || !file.read(*offset, head.data(), sizeof head)) return std::nullopt;
    return head[1];
  }
  struct Head {
    std::uint32_t buckets, first_symbol, bloom_words, bloom_shift;
  } head{};
  if (dynamic.gnu_hash == 0) return std::nullopt;
  const auto offset = segments.offset_of(dynamic.gnu_hash, sizeof head);
  if (!offset || !file.read(*offset, &head, sizeof head)) return std::nullopt;
  const std::uint64_t buckets_at = *offset + sizeof head + std::uint64_t{head.bloom_words} * 8;
  const auto buckets = file.read_array<std::uint32_t>(buckets_at, head.buckets);
  if (!buckets || buckets->empty()) return std::nullopt;
  const std::uint32_t last = *std::max_element(buckets->begin(), buckets->end());
  if (last == 0) return head.first_symbol;
  if (last < head.first_symbol) return std::nullopt;
  // The last chain ends at the first hash with its low bit set.
  const std::uint64_t chains_at = buckets_at + std::uint64_t{head.buckets} * 4;
  for (std::uint64_t symbol = last; symbol < kMaxTableBytes / sizeof(Elf64_Sym); ++symbol) {
    std::uint32_t hash = 0;
    if (!file.read(chains_at + (symbol - head.first_symbol) * 4, &hash, 4)) return std::nullopt;
    if ((hash & 1) != 0) return symbol + 1;
  }
  return std::nullopt;
}

// The symbols a plugin may be known by.
struct PluginSymbols {
  bool looks_around = false;
  std::optional<Elf64_Sym> ours;
  std::vector<std::string> others;  // lope_plugin_v2 and the like
};

// Nothing when the tables are broken.
std::optional<PluginSymbols> find_symbols(const ElfFile& file, const Segments& segments,
                                          const Dynamic& dynamic) {
  const auto count = symbol_count(file, segments, dynamic);
  if (!count || *count > kMaxTableBytes / sizeof(Elf64_Sym)) return std::nullopt;
  const auto symbols_at = segments.offset_of(dynamic.symbols, *count * sizeof(Elf64_Sym));
  const auto strings_at = segments.offset_of(dynamic.strings, dynamic.strings_size);
  if (!symbols_at || !strings_at) return std::nullopt;
  const auto symbols = file.read_array<Elf64_Sym>(*symbols_at, *count);
  const auto strings = file.read_array<char>(*strings_at, dynamic.strings_size);
  if (!symbols || !strings) return std::nullopt;

  PluginSymbols found;
  const std::string_view all_names(strings->data(), strings->size());
  for (const std::uint64_t path : dynamic.run_paths) {
    if (path >= all_names.size()) continue;
    const std::string_view from_here = all_names.substr(path);
    const std::string_view text = from_here.substr(0, from_here.find('\0'));
    found.looks_around = found.looks_around || text.find("ORIGIN") != std::string_view::npos;
  }
  for (const Elf64_Sym& symbol : *symbols) {
    const unsigned char binding = ELF64_ST_BIND(symbol.st_info);
    if (symbol.st_shndx == SHN_UNDEF || symbol.st_name >= all_names.size()) continue;
    if (binding != STB_GLOBAL && binding != STB_WEAK && binding != STB_GNU_UNIQUE) continue;
    const std::string_view from_here = all_names.substr(symbol.st_name);
    if (!from_here.starts_with(kSymbolPrefix)) continue;
    const std::string_view name = from_here.substr(0, from_here.find('\0'));
    if (name == kSymbol) {
      found.ours = symbol;
    } else if (found.others.size() < 8) {
      found.others.push_back(escape(name, 64));
    }
  }
  return found;
}

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

Result<PluginFile> check_elf(const std::string& path, const ElfFile& file) {
  const std::string elf_expected =
      "a 64-bit little-endian ELF shared object for " + machine_name(kMachine);
  Elf64_Ehdr header{};
  if (!file.read(0, header.e_ident, SELFMAG) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return refusal(path, elf_expected, "no ELF file");
  }
  if (!file.read(0, header.e_ident, EI_NIDENT)) {
    return refusal(path, elf_expected, "a truncated ELF file");
  }
  if (header.e_ident[EI_CLASS] != ELFCLASS64) {
    return refusal(path, elf_expected,
                   header.e_ident[EI_CLASS] == ELFCLASS32
                       ? "a 32-bit one"
                       : "ELF class " + std::to_string(header.e_ident[EI_CLASS]));
  }
  if (header.e_ident[EI_DATA] != ELFDATA2LSB) {
    return refusal(path, elf_expected,
                   header.e_ident[EI_DATA] == ELFDATA2MSB
                       ? "a big-endian one"
                       : "ELF byte order " + std::to_string(header.e_ident[EI_DATA]));
  }
  if (!file.read(0, &header, sizeof header)) {
    return refusal(path, elf_expected, "a truncated ELF file");
  }
  if (header.e_machine != kMachine) {
    return refusal(path, elf_expected, "one for " + machine_name(header.e_machine));
  }
  if (header.e_type != ET_DYN) {
    return refusal(path, elf_expected, "ELF type " + std::to_string(header.e_type));
  }

  const Error broken = refusal(path, elf_expected, "a truncated or damaged one");
  if (header.e_phentsize != sizeof(Elf64_Phdr)) return broken;
  const auto program_headers = file.read_array<Elf64_Phdr>(header.e_phoff, header.e_phnum);
  if (!program_headers) return broken;
  const Segments segments(*program_headers);
  const auto dynamic_header =
      std::find_if(program_headers->begin(), program_headers->end(),
                   [](const Elf64_Phdr& entry) { return entry.p_type == PT_DYNAMIC; });
  if (dynamic_header == program_headers->end()) return broken;
  const auto entries = file.read_array<Elf64_Dyn>(dynamic_header->p_offset,
                                                  dynamic_header->p_filesz / sizeof(Elf64_Dyn));
  if (!entries) return broken;

  Dynamic dynamic;
  for (const Elf64_Dyn& entry : *entries) {
    if (entry.d_tag == DT_NULL) break;
    switch (entry.d_tag) {
      case DT_SYMTAB: dynamic.symbols = entry.d_un.d_ptr; break;
      case DT_STRTAB: dynamic.strings = entry.d_un.d_ptr; break;
      case DT_STRSZ: dynamic.strings_size = entry.d_un.d_val; break;
      case DT_HASH: dynamic.hash = entry.d_un.d_ptr; break;
      case DT_GNU_HASH: dynamic.gnu_hash = entry.d_un.d_ptr; break;
      case DT_RPATH:
      case DT_RUNPATH: dynamic.run_paths.push_back(entry.d_un.d_val); break;
      case DT_SYMENT:
        if (entry.d_un.d_val != sizeof(Elf64_Sym)) return broken;
        break;
      default: break;
    }
  }
  const auto symbols = find_symbols(file, segments, dynamic);
  if (!symbols) return broken;
  if (!symbols->ours) {
    return refusal(path, "the symbol lope_plugin_v1 (this Lope speaks ABI 1)",
                   symbols->others.empty() ? "no lope_plugin symbol" : join(symbols->others));
  }

  const Elf64_Sym& symbol = *symbols->ours;
  if (ELF64_ST_TYPE(symbol.st_info) != STT_OBJECT) {
    return refusal(path, "lope_plugin_v1 to be data",
                   ELF64_ST_TYPE(symbol.st_info) == STT_FUNC ? "a function" : "something else");
  }
  std::array<std::uint32_t, 2> numbers{};  // struct_size, abi_minor: the table's first members
  if (const auto offset = segments.offset_of(symbol.st_value, sizeof numbers)) {
    if (!file.read(*offset, numbers.data(), sizeof numbers)) return broken;
  } else if (!segments.is_zeroed(symbol.st_value)) {
    return broken;
  }
  const auto [struct_size, abi_minor] = numbers;
  if (struct_size == 0) {
    return refusal(path, "a constant-initialised lope_plugin_v1", "struct_size 0");
  }
  if (struct_size < kSmallestPluginTable) {
    return refusal(
        path, "lope_plugin_v1 with struct_size of at least " + std::to_string(kSmallestPluginTable),
        "struct_size " + std::to_string(struct_size));
  }
  if (struct_size > symbol.st_size) {
    return refusal(path, "lope_plugin_v1 to be as large as its struct_size",
                   "struct_size " + std::to_string(struct_size) + ", but " +
                       std::to_string(symbol.st_size) + " bytes");
  }
  if (abi_minor > kHandlerAbiMinor) {
    return refusal(path, "a handler for host ABI 1." + std::to_string(kHandlerAbiMinor),
                   "one that asks for host ABI 1." + std::to_string(abi_minor));
  }
  return PluginFile{path, struct_size, abi_minor, symbols->looks_around};
}

// `path` is resolved.
Result<PluginFile> check_resolved(const std::string& path) {
  // Without waiting for a fifo's other end.
  const UniqueFd fd(
      ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW));
  if (!fd.valid()) {
    const int error = errno;
    return refusal(path, "a readable file", errno_text("open", error));
  }
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) {
    const int error = errno;
    return refusal(path, "a regular file", errno_text("fstat", error));
  }
  if (!S_ISREG(status.st_mode)) return refusal(path, "a regular file", file_kind(status.st_mode));
  if (auto checked = check_ownership(path, path, status); !checked) return Error{checked.error()};
  if (auto checked = check_parents(path); !checked) return Error{checked.error()};
  return check_elf(path, ElfFile(fd.get(), static_cast<std::uint64_t>(status.st_size)));
}

}  // namespace

Result<PluginFile> find_plugin(const std::string& handlers_dir, const std::string& name) {
  const std::string path = handlers_dir + "/" + name + ".so";
  const bool plain = !name.empty() && name != "." && name != ".." &&
                     name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
  if (!plain) {
    return refusal(path, "a plain file name, without '/' and not '.' or '..'", quoted(name));
  }
  const auto folder = resolve(handlers_dir);
  if (!folder) return refusal(path, "the folder " + quoted(handlers_dir), folder.error());
  const auto resolved = resolve(path);
  if (!resolved) {
    const bool has_suffix = name.ends_with(".so");
    return refusal(path, has_suffix ? "a file (the name goes without .so)" : "a file",
                   resolved.error());
  }
  const std::string inside = *folder == "/" ? "/" : *folder + "/";
  if (!resolved->starts_with(inside)) {
    return refusal(path, "a file inside " + quoted(*folder), "a link to " + quoted(*resolved));
  }
  return check_resolved(*resolved);
}

Result<PluginFile> check_plugin(const std::string& path) {
  if (path.empty() || path.find('\0') != std::string::npos) {
    return refusal(path, "a file name", quoted(path));
  }
  const auto resolved = resolve(path);
  if (!resolved) return refusal(path, "a file", resolved.error());
  return check_resolved(*resolved);
}

}  // namespace lope
