// SPDX-License-Identifier: GPL-2.0
/*
 * A board of the kernel's own devices, with drivers that only remember: a cpufreq policy for each CPU, a devfreq
 * device, a thermal zone, a powercap zone, and an INA3221 on the stub of an I2C bus. What is seen of them in sysfs is
 * the kernel's doing. What a test has to do to the board are parameters of the module.
 */
#include <linux/cpufreq.h>
#include <linux/devfreq.h>
#include <linux/i2c.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/pm_opp.h>
#include <linux/pm_qos.h>
#include <linux/powercap.h>
#include <linux/thermal.h>

/* --- CPUs */

static struct cpufreq_frequency_table policy_table[] = {
	{ .frequency = 300000 }, { .frequency = 600000 }, { .frequency = 900000 }, { .frequency = 1200000 },
	{ .frequency = CPUFREQ_TABLE_END },
};
static unsigned int policy_khz[NR_CPUS];

static int policy_init(struct cpufreq_policy *policy)
{
	if (!policy_khz[policy->cpu])
		policy_khz[policy->cpu] = 1200000;
	policy->freq_table = policy_table;
	policy->cpuinfo.transition_latency = 1000;
	return 0;
}

static int policy_set(struct cpufreq_policy *policy, unsigned int index)
{
	policy_khz[policy->cpu] = policy_table[index].frequency;
	return 0;
}

static unsigned int policy_get(unsigned int cpu)
{
	return policy_khz[cpu];
}

static struct cpufreq_driver policy_driver = {
	.name = "board",
	.init = policy_init,
	.verify = cpufreq_generic_frequency_table_verify,
	.target_index = policy_set,
	.get = policy_get,
	.attr = cpufreq_generic_attr,
};

/* --- GPU */

static struct platform_device *gpu;
static struct devfreq *gpu_clock;
static unsigned long gpu_hz = 200000000;

static int gpu_target(struct device *dev, unsigned long *hz, u32 flags)
{
	struct dev_pm_opp *point = devfreq_recommended_opp(dev, hz, flags);

	if (IS_ERR(point))
		return PTR_ERR(point);
	dev_pm_opp_put(point);
	gpu_hz = *hz;
	return 0;
}

static int gpu_current(struct device *dev, unsigned long *hz)
{
	*hz = gpu_hz;
	return 0;
}

static struct devfreq_dev_profile gpu_profile = {
	.initial_freq = 200000000,
	.target = gpu_target,
	.get_cur_freq = gpu_current,
};

/* --- A cap on both clocks, as cooling sets it: kHz, or 0 for none. */

static struct freq_qos_request cpu_cap;
static struct dev_pm_qos_request gpu_cap;
static unsigned int cap_khz[2];

static int cap_set(const char *text, const struct kernel_param *param)
{
	int ret = param_set_uint(text, param);

	if (ret || !gpu_clock)
		return ret;
	freq_qos_update_request(&cpu_cap, cap_khz[0] ?: FREQ_QOS_MAX_DEFAULT_VALUE);
	dev_pm_qos_update_request(&gpu_cap, cap_khz[1] ?: PM_QOS_MAX_FREQUENCY_DEFAULT_VALUE);
	return 0;
}

static const struct kernel_param_ops cap_ops = { .set = cap_set, .get = param_get_uint };
module_param_cb(cpu_cap_khz, &cap_ops, &cap_khz[0], 0644);
module_param_cb(gpu_cap_khz, &cap_ops, &cap_khz[1], 0644);

/* --- Heat: what the sensor shows, or the error that it fails with. */

static int temp = 47000;
static int temp_error;
module_param(temp, int, 0644);
module_param(temp_error, int, 0644);

static struct thermal_zone_device *zone;
static const struct thermal_trip trips[] = {
	{ .type = THERMAL_TRIP_PASSIVE, .temperature = 85000, .hysteresis = 2000 },
	{ .type = THERMAL_TRIP_CRITICAL, .temperature = 105000 },
};

static int zone_temp(struct thermal_zone_device *of, int *millicelsius)
{
	*millicelsius = temp;
	return -temp_error;
}

static const struct thermal_zone_device_ops zone_ops = { .get_temp = zone_temp };

/* --- A counter of energy, at ten watts */

#define ENERGY_RANGE_UJ 262143328850ULL

static struct powercap_control_type *counters;
static struct powercap_zone counter;

static int counter_range(struct powercap_zone *of, u64 *microjoules)
{
	*microjoules = ENERGY_RANGE_UJ;
	return 0;
}

static int counter_energy(struct powercap_zone *of, u64 *microjoules)
{
	div64_u64_rem(ktime_get_ns() / 100, ENERGY_RANGE_UJ, microjoules);
	return 0;
}

static int counter_release(struct powercap_zone *of)
{
	return 0;
}

static const struct powercap_zone_ops counter_ops = {
	.get_max_energy_range_uj = counter_range,
	.get_energy_uj = counter_energy,
	.release = counter_release,
};

static u64 limit_uw = 15000000, window_us = 28000000;

static int limit_set(struct powercap_zone *of, int constraint, u64 microwatts)
{
	limit_uw = microwatts;
	return 0;
}

static int limit_get(struct powercap_zone *of, int constraint, u64 *microwatts)
{
	*microwatts = limit_uw;
	return 0;
}

static int window_set(struct powercap_zone *of, int constraint, u64 microseconds)
{
	window_us = microseconds;
	return 0;
}

static int window_get(struct powercap_zone *of, int constraint, u64 *microseconds)
{
	*microseconds = window_us;
	return 0;
}

static const struct powercap_zone_constraint_ops constraint_ops = {
	.set_power_limit_uw = limit_set,
	.get_power_limit_uw = limit_get,
	.set_time_window_us = window_set,
	.get_time_window_us = window_get,
};

/* --- Rails */

static struct device_node rails_node;
static struct i2c_client *rails;

static int rails_add(void)
{
	/* Ready; 5 V and 1 A through 10 mOhm; 1 V and -0.1 A; the highest limits. */
	static const u16 registers[][2] = {
		{ 0x0f, 0x0001 }, { 0x02, 5000 }, { 0x01, 2000 }, { 0x04, 1000 }, { 0x03, (u16)-200 },
		{ 0x07, 0x7ff8 }, { 0x08, 0x7ff8 }, { 0x09, 0x7ff8 }, { 0x0a, 0x7ff8 },
	};
	struct i2c_board_info info = { I2C_BOARD_INFO("ina3221", 0x40), .of_node = &rails_node };
	union i2c_smbus_data data;
	struct i2c_adapter *bus;
	int number, i;

	for (number = 0; number < 16; number++) {
		bus = i2c_get_adapter(number);
		if (!bus)
			continue;
		if (!strcmp(bus->name, "SMBus stub driver"))
			break;
		i2c_put_adapter(bus);
	}
	if (number == 16)
		return -ENODEV;
	for (i = 0; i < ARRAY_SIZE(registers); i++) {
		/* The chip sends its bytes the other way round. */
		data.word = swab16(registers[i][1]);
		i2c_smbus_xfer(bus, 0x40, 0, I2C_SMBUS_WRITE, registers[i][0], I2C_SMBUS_WORD_DATA, &data);
	}
	rails = i2c_new_client_device(bus, &info);
	i2c_put_adapter(bus);
	return PTR_ERR_OR_ZERO(rails);
}

/* What is in use cannot be unloaded: the machine ends with what is wrong. */
static void __init must(const char *what, int ret)
{
	if (ret < 0)
		panic("board: %s: error %d\n", what, ret);
}

static int __init board_add(void)
{
	static const unsigned long points[] = { 200000000, 400000000, 612000000, 1020000000 };
	struct cpufreq_policy *policy;
	int i;

	must("cpufreq", cpufreq_register_driver(&policy_driver));
	policy = cpufreq_cpu_get(0);
	must("cap of cpufreq",
	     freq_qos_add_request(&policy->constraints, &cpu_cap, FREQ_QOS_MAX, FREQ_QOS_MAX_DEFAULT_VALUE));
	cpufreq_cpu_put(policy);

	gpu = platform_device_register_simple("1000.gpu", PLATFORM_DEVID_NONE, NULL, 0);
	must("platform device", PTR_ERR_OR_ZERO(gpu));
	for (i = 0; i < ARRAY_SIZE(points); i++)
		must("operating point", dev_pm_opp_add(&gpu->dev, points[i], 1000000));
	gpu_clock = devfreq_add_device(&gpu->dev, &gpu_profile, "performance", NULL);
	must("devfreq", PTR_ERR_OR_ZERO(gpu_clock));
	must("cap of devfreq", dev_pm_qos_add_request(&gpu->dev, &gpu_cap, DEV_PM_QOS_MAX_FREQUENCY,
						      PM_QOS_MAX_FREQUENCY_DEFAULT_VALUE));

	zone = thermal_zone_device_register_with_trips("board-thermal", trips, ARRAY_SIZE(trips), NULL, &zone_ops,
						       NULL, 0, 0);
	must("thermal zone", PTR_ERR_OR_ZERO(zone));
	must("thermal zone", thermal_zone_device_enable(zone));

	counters = powercap_register_control_type(NULL, "intel-rapl", NULL);
	must("powercap", PTR_ERR_OR_ZERO(counters));
	must("powercap zone", PTR_ERR_OR_ZERO(powercap_register_zone(&counter, counters, "package-0", NULL,
								     &counter_ops, 1, &constraint_ops)));
	must("rails", rails_add());
	return 0;
}
module_init(board_add);

MODULE_DESCRIPTION("A board for tests");
MODULE_LICENSE("GPL");
