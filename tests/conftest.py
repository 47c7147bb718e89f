from hypothesis import HealthCheck, settings

# A busy machine must not decide whether a property holds.
settings.register_profile("resrope", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("resrope")
