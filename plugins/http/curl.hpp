// libcurl's handles as values that clean up after themselves.
#pragma once

#include <curl/curl.h>

#include <memory>

namespace lope::http {

struct EasyDelete {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct MultiDelete {
  void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};
struct ListDelete {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

using Easy = std::unique_ptr<CURL, EasyDelete>;
using Multi = std::unique_ptr<CURLM, MultiDelete>;
using List = std::unique_ptr<curl_slist, ListDelete>;

}  // namespace lope::http
