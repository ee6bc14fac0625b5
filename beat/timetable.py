"""The built-in timetable: what every tenant gets from the start."""

from service.schedules.builtin import BuiltinSchedule

TIMETABLE = (BuiltinSchedule(name="daily-activity", type="report.activity", cron="15 2 * * *", args={"period": "day"}),)
