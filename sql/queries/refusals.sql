-- Why were reasons of the newest day refused? How many of each kind, in percent of the kind, beside the accepted ones.
-- Reads reason_score. No parameters.
with outcomes as (
    select kind, coalesce(refusal, 'accepted') as outcome, count(*) as reasons
    from reason_score
    where dt = (select max(dt) from reason_score)
    group by 1, 2
)
select kind, outcome, reasons, round(100.0 * reasons / sum(reasons) over (partition by kind), 1) as percent
from outcomes
order by kind, reasons desc, outcome
