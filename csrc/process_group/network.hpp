// Small questions to the operating system about names and addresses of this host.
#pragma once

#include <string>

namespace papilio::pg {

std::string hostName();
// Local address whose route leads to MASTER_ADDR; "127.0.0.1" when the variable is unset, local, or
// can not be resolved.
std::string routeToMaster();

}  // namespace papilio::pg
