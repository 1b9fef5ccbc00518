// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's own ina3221 driver. It takes the names of its channels from a device tree, which kernels for PCs cannot
 * read; here it finds three channels, of which the third is not connected.
 */
#include <linux/of.h>

static struct device_node channels[3];

static int channel_number(const struct device_node *channel, const char *property, u32 *number)
{
	if (strcmp(property, "reg"))
		return -EINVAL;
	*number = channel - channels;
	return 0;
}

static int channel_text(const struct device_node *channel, const char *property, const char **text)
{
	static const char *const labels[] = { "VDD_IN", "VDD_CPU", "NC" };

	*text = labels[channel - channels];
	return 0;
}

#undef for_each_child_of_node_scoped
#define for_each_child_of_node_scoped(parent, child) \
	for (struct device_node *child = channels; child < channels + ARRAY_SIZE(channels); child++)
#define of_property_read_u32 channel_number
#define of_property_read_string channel_text
#define of_device_is_available(channel) ((channel) != &channels[2])

#include "ina3221.c"
