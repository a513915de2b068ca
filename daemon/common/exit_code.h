// The exit codes of every Lope program. systemd/lope.service.in names kExitRefused in
// RestartPreventExitStatus=.
#pragma once

namespace lope {

inline constexpr int kExitOk = 0;          // clean
inline constexpr int kExitFailed = 1;      // failed, or something had to be killed
inline constexpr int kExitUsage = 2;       // the command line was not understood; nothing was done
inline constexpr int kExitTemporary = 75;  // a passing lack of resources: start again (EX_TEMPFAIL)
inline constexpr int kExitRefused =
    78;  // configuration or handler refused: do not start again (EX_CONFIG)

}  // namespace lope
